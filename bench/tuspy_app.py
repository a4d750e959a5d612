"""tuspyserver as its own documentation mounts it. BENCH_DIR names the folder it stores to."""

import os
from importlib import import_module  # tuspyserver lives in the peers' environment only

from fastapi import FastAPI

app = FastAPI()
app.include_router(
    import_module("tuspyserver").create_tus_router(
        prefix="files", files_dir=os.environ["BENCH_DIR"]
    )
)
