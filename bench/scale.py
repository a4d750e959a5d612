"""A catalog of a million files: how long everything takes that a person or a client waits for.

    python bench/scale.py --work /tmp/scale [--files 1000000] [--tasks 200000] [--out FILE]

It builds the data folder in ``--work`` when there is none, starts a server on it, measures over
HTTP, and prints a table. What is built has files of 0 bytes in the store, so that the search for
stray bytes has something to walk over. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.parse
import uuid
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from upwell.app import build, open_catalog, utc_now
from upwell.config import Settings
from upwell.model import DEFAULT_POOL_ID, folded

if TYPE_CHECKING:
    from collections.abc import Iterator

WORDS = ("holiday", "report", "invoice", "IMG", "scan", "draft", "final", "budget", "photo", "clip")
KINDS = ((".jpg", "image/jpeg"), (".pdf", "application/pdf"), (".mp4", "video/mp4"))
BATCH = 20_000
TIMES = 40  # requests for each line of the table
PORT = 18390


def micros(ago: timedelta) -> int:
    return int((utc_now() - ago).timestamp() * 1e6)


# building


def make(folder: Path, files: int, tasks: int) -> None:
    """A data folder with that many files and tasks of one account, and a token in ``token``."""
    settings = Settings(data=folder)
    core = build(settings)
    account = core.accounts.create("owner", admin=True)
    token = core.accounts.issue(account, "bench")
    core.verbs.check()  # which makes the folders of the store
    core.catalog.close()
    (folder / "token").write_text(token)
    began = time.monotonic()
    with closing(sqlite3.connect(folder / "catalog.sqlite", isolation_level=None)) as conn:
        conn.execute("PRAGMA synchronous=OFF")
        conn.execute("PRAGMA cache_size=-500000")
        later = set_aside(conn)
        conn.execute("BEGIN")
        dice = random.Random(8)
        fill(conn, "blobs", blob_rows(account.id, files, dice))
        fill(conn, "files", file_rows(account.id, files, dice))
        fill(conn, "tasks", task_rows(account.id, tasks, dice))
        conn.execute(
            "INSERT INTO file_names (rowid, name_folded) "
            "SELECT number, name_folded FROM files WHERE recycled_at IS NULL ORDER BY number"
        )
        for statement in later:
            conn.execute(statement)
        conn.execute("COMMIT")
        conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with closing(open_catalog(settings)) as catalog:
        catalog.repair_usage()
    make_bytes(folder / "pools" / "default" / "blobs", files)
    print(f"built in {time.monotonic() - began:.0f} s", file=sys.stderr)


def set_aside(conn: sqlite3.Connection) -> list[str]:
    """Drop what each row would be put into one by one; how to make it again."""
    query = (
        "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') "
        "AND tbl_name IN ('files', 'blobs', 'tasks') AND sql IS NOT NULL"
    )
    found = conn.execute(query).fetchall()
    for kind, name, _ in found:
        conn.execute(f'DROP {kind} "{name}"')
    return [sql for _, _, sql in found]


def fill(conn: sqlite3.Connection, table: str, rows: Iterator[dict[str, Any]]) -> None:
    first = next(rows)
    columns, places = ", ".join(first), ", ".join("?" * len(first))
    statement = f"INSERT INTO {table} ({columns}) VALUES ({places})"
    conn.execute(statement, list(first.values()))
    conn.executemany(statement, (list(row.values()) for row in rows))


def key(number: int) -> str:
    return uuid.uuid5(uuid.NAMESPACE_OID, str(number)).hex


def blob_rows(account: str, count: int, dice: random.Random) -> Iterator[dict[str, Any]]:
    start = micros(timedelta(days=300))
    for n in range(count):
        yield {
            "id": f"b{n:031x}",
            "account_id": account,
            "pool_id": DEFAULT_POOL_ID,
            "key": key(n),
            "size": dice.randrange(1 << 30),
            "sha256": f"{dice.getrandbits(256):064x}",
            "facts": "{}",
            "created_at": start + n * 20_000_000,
        }


def file_rows(account: str, count: int, dice: random.Random) -> Iterator[dict[str, Any]]:
    """Names of a camera, of an office, and some rare ones; the first half of them one kind."""
    start = micros(timedelta(days=300))
    for n in range(count):
        ending, type_ = KINDS[n % 3]
        album = "Archive" if n < count // 2 else "Inbox"
        name = f"{album} {WORDS[dice.randrange(10)]}_{n:07d} {dice.getrandbits(20):05x}{ending}"
        yield {
            "id": f"f{dice.getrandbits(124):031x}",
            "account_id": account,
            "pool_id": DEFAULT_POOL_ID,
            "blob_id": f"b{n:031x}",
            "name": name,
            "name_folded": folded(name),
            "mime_type": type_,
            "hash_algorithm": "sha256",
            "hash": "0" * 64,
            "user_meta": "{}",
            "sensitive_marks": "[]",
            "size": dice.randrange(1 << 30),
            "number": (1 << 40) + n + 1,
            "created_at": start + n * 20_000_000,
            "updated_at": start + n * 20_000_000,
        }


def task_rows(account: str, count: int, dice: random.Random) -> Iterator[dict[str, Any]]:
    """Half of them in progress."""
    start, until = micros(timedelta(days=6)), micros(-timedelta(days=7))
    for n in range(count):
        status = ("in_progress", "completed", "in_progress", "cancelled")[n % 4]
        yield {
            "id": str(uuid.UUID(int=dice.getrandbits(128), version=4)),
            "account_id": account,
            "pool_id": DEFAULT_POOL_ID,
            "file_name": f"task {n}.bin",
            "content_type": "application/octet-stream",
            "key": key(-n - 1),
            "size": 1 << 20,
            "chunk_size": 1 << 20,
            "status": status,
            "revision": 0,
            "received_count": 0,
            "received_bytes": 0,
            "created_at": start + n * 1_000_000,
            "updated_at": start + n * 1_000_000,
            "expires_at": until,
            "due_at": until,
        }


def make_bytes(root: Path, count: int) -> None:
    for n in range(count):
        name = key(n)
        os.close(os.open(root / name[:2] / name, os.O_CREAT | os.O_WRONLY, 0o600))


# measuring


@dataclass
class Line:
    what: str
    bar: str
    values: list[float] = field(default_factory=list)  # milliseconds

    def cells(self) -> tuple[str, str, str, str]:
        ordered = sorted(self.values)
        worst = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
        return self.what, f"{ordered[len(ordered) // 2]:.1f}", f"{worst:.1f}", self.bar


class Api:
    """One connection."""

    def __init__(self, token: str) -> None:
        self._http = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        self._headers = {"Authorization": f"Bearer {token}"}

    def ask(
        self, method: str, path: str, body: bytes | None = None, kind: str = "application/json"
    ) -> tuple[Any, Any]:
        headers = self._headers | ({} if body is None else {"Content-Type": kind})
        self._http.request(method, f"/api{path}", body, headers)
        answer = self._http.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:300]!r}")
        return answer.headers, json.loads(text) if text else None

    def timed(self, line: Line, *args: Any) -> tuple[Any, Any]:
        began = time.perf_counter()
        found = self.ask(*args)
        line.values.append((time.perf_counter() - began) * 1000)
        return found


def listings(files: int) -> dict[str, str]:
    """Paths of what is listed."""
    quote = urllib.parse.quote
    found = {f"list by {order}": f"/files/me?order={order}" for order in ("newest", "oldest")}
    found |= {f"list by {o}": f"/files/me?order={o}" for o in ("name", "-name", "size", "-size")}
    found[f"list from offset {files // 100}"] = f"/files/me?offset={files // 100}"
    found[f"list from offset {files * 9 // 10}"] = f"/files/me?offset={files * 9 // 10}"
    terms = ("IMG", "archive img", "0500000", f"{files // 2:07d}", "inbox", "jpg", "nothing at all")
    for term in terms:
        found[f"search “{term}”"] = f"/files/me?search={quote(term)}"
    for order in ("name", "-size"):
        found[f"search “photo” by {order}"] = f"/files/me?search=photo&order={order}"
        found[f"search “archive” by {order}"] = f"/files/me?search=archive&order={order}"
        found[f"search “inbox” by {order}"] = f"/files/me?search=inbox&order={order}"
    found["search “q9” (two characters)"] = "/files/me?search=q9"
    found["recycle bin, empty"] = "/files/recycle"
    found["tasks"] = "/files/upload/tasks"
    for status in ("in_progress", "completed", "cancelled", "expired"):
        found[f"tasks, {status}"] = f"/files/upload/tasks?status={status}"
    found["bundles"] = "/bundles"
    return found


def measure_lists(token: str, files: int) -> list[Line]:
    api, lines = Api(token), []
    for what, path in listings(files).items():
        line = Line(what, "50")
        for _ in range(TIMES):
            api.timed(line, "GET", path)
        lines.append(line)
    walk, path = Line("next page, 100 rows, in the middle", "50"), "/files/me?take=100&order=name"
    headers, _ = api.ask("GET", f"{path}&offset={files // 2}")
    for _ in range(TIMES):
        after = urllib.parse.quote(headers["X-Next-Cursor"])
        headers, _ = api.timed(walk, "GET", f"{path}&after={after}")
    return [*lines, walk]


def measure_changes(token: str, *, while_listing: bool) -> list[Line]:
    """Create, chunk, complete and delete, with four clients that list all the time or none."""
    suffix = ", while four list" if while_listing else ""
    names = ("create", "chunk", "complete", "delete")
    lines = {name: Line(name + suffix, "10") for name in names}
    stop = threading.Event()
    paths = ("/files/me", "/files/me?order=name", "/files/me?search=img", "/files/upload/tasks")
    listing = [threading.Thread(target=lists, args=(token, p, stop)) for p in paths]
    for thread in listing if while_listing else ():
        thread.start()
    api = Api(token)
    for n in range(TIMES * 2):
        upload(api, lines, f"{suffix}{n}".encode() + os.urandom(4000))
    stop.set()
    for thread in listing if while_listing else ():
        thread.join()
    return list(lines.values())


def lists(token: str, path: str, stop: threading.Event) -> None:
    api = Api(token)
    while not stop.is_set():
        api.ask("GET", path)
        time.sleep(0.05)  # a person's page asks no faster


def upload(api: Api, lines: dict[str, Line], content: bytes) -> None:
    asked = {"file_name": "new.bin", "file_size": len(content)}
    _, made = api.timed(lines["create"], "POST", "/files/upload/create", json.dumps(asked).encode())
    task, kind = made["task_id"], "application/octet-stream"
    api.timed(lines["chunk"], "PUT", f"/files/upload/chunk/{task}/0", content, kind)
    _, file = api.timed(lines["complete"], "POST", f"/files/upload/complete/{task}")
    api.timed(lines["delete"], "DELETE", f"/files/{file['id']}")


def measure_sweep(folder: Path) -> Line:
    """CPU of sweeps that find nothing, one after the other."""
    core, line = build(Settings(data=folder)), Line("sweep, nothing to do (CPU)", "100")
    try:
        core.sweeper.sweep()
        for _ in range(10):
            began = time.process_time()
            core.sweeper.sweep()
            line.values.append((time.process_time() - began) * 1000)
    finally:
        core.catalog.close()
    return line


def measure_start(folder: Path) -> tuple[Line, subprocess.Popen[bytes]]:
    """From the command until it answers; the server."""
    command = [sys.executable, "-m", "upwell.cli", "serve"]
    upwell = shutil.which("upwell", path=str(Path(sys.executable).parent))
    command = [upwell, "serve"] if upwell else command
    # So many tasks are of many days and people; here one account has them all.
    unlimited = "[server]\naccount_open_uploads = 0\naccount_unsent_bytes = 0\n"
    (folder / "upwell.toml").write_text(unlimited)
    began, line = time.perf_counter(), Line("start", "2000")
    args = ["--data", str(folder), "--port", str(PORT), "--host", "127.0.0.1"]
    log = (folder / "log").open("ab")
    server = subprocess.Popen([*command, *args], stdout=log, stderr=log)
    while True:
        try:
            with closing(http.client.HTTPConnection("127.0.0.1", PORT, timeout=5)) as probe:
                probe.request("GET", "/health/ready")
                probe.getresponse().read()
                break
        except OSError:
            if server.poll() is not None:
                raise SystemExit("the server ended") from None
            time.sleep(0.01)
    line.values.append((time.perf_counter() - began) * 1000)
    return line, server


def measure_stop(server: subprocess.Popen[bytes]) -> Line:
    line, began = Line("stop, SIGTERM", "2000"), time.perf_counter()
    server.terminate()
    server.wait()
    line.values.append((time.perf_counter() - began) * 1000)
    return line


def measure(folder: Path, files: int) -> list[Line]:
    token = (folder / "token").read_text()
    start, server = measure_start(folder)
    try:
        lines = [start, *measure_lists(token, files)]
        for while_listing in (False, True):
            lines += measure_changes(token, while_listing=while_listing)
    finally:
        lines_stop = measure_stop(server)
    return [*lines, lines_stop, measure_sweep(folder)]


def table(lines: list[Line], files: int, tasks: int, size: int) -> str:
    head = [
        f"# {files:,} files, {tasks:,} tasks",
        "",
        f"The catalog has {size / 1e9:.2f} GB. Made by `python bench/scale.py`, times in ms.",
        "",
        "| what | median | 95 % | bar |",
        "|---|---:|---:|---:|",
    ]
    return "\n".join([*head, *(f"| {' | '.join(line.cells())} |" for line in lines)]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--tasks", type=int, default=200_000)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    folder: Path = asked.work / f"data-{asked.files}-{asked.tasks}"
    if not (folder / "token.ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make(folder, asked.files, asked.tasks)
        (folder / "token.ready").touch()
    lines = measure(folder, asked.files)
    text = table(lines, asked.files, asked.tasks, (folder / "catalog.sqlite").stat().st_size)
    print(text)
    if asked.out:
        asked.out.write_text(text)


if __name__ == "__main__":
    main()
