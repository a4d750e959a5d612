"""The textbook FastAPI upload: `UploadFile`, then a write to the file's place.

It syncs nothing and verifies nothing. BENCH_DIR names the folder that it stores to.
"""

import os
from pathlib import Path

from fastapi import FastAPI, Request, Response, UploadFile
from starlette.concurrency import run_in_threadpool

CHUNK_SIZE = 5 * 1024 * 1024
FOLDER = Path(os.environ["BENCH_DIR"])

app = FastAPI()
target = os.open(FOLDER / "whole", os.O_RDWR | os.O_CREAT, 0o600)


@app.post("/chunk/{index}")
async def put_chunk(index: int, chunk: UploadFile) -> Response:
    """Write one chunk at its offset in the one file."""
    data = await chunk.read()
    await run_in_threadpool(os.pwrite, target, data, index * CHUNK_SIZE)
    return Response()


@app.post("/files/{index}")
async def put_file(index: int, chunk: UploadFile) -> Response:
    """Write one small file of its own."""
    data = await chunk.read()
    await run_in_threadpool((FOLDER / str(index)).write_bytes, data)
    return Response()


@app.get("/")
async def ready(_: Request) -> Response:
    """Tell the benchmark that the server is up."""
    return Response()
