"""A full disk, and a data folder that is copied while it is written to."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import subprocess
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness import UPWELL, Api, Server
from tests.survival import fsck
from upwell.catalog import SqlCatalog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.slow

K = 64 << 10
MIB = 1 << 20
CONFIG = '[server]\nmin_free_space = "1MiB"\n'


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 48 MiB of its own."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(
            ["umount", "-l", str(disk)], check=True
        )  # what vanishes meanwhile is not an error


def _fill(path: Path) -> None:
    """Take every byte that is left."""
    with path.open("ab", buffering=0) as file:
        for step in (MIB, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(step)):
                    pass


def _run(*command: str | Path) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    if done.returncode > 1:  # 1 is e2fsck's for errors that it corrected
        pytest.skip(f"no file system on a loop device here: {done.stderr.strip()}")
    return done.stdout.strip()


@pytest.fixture
def failing_disk(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """An ext4 of its own, which the kernel makes read-only after an error, and its device."""
    if os.geteuid() != 0:
        pytest.skip("mounting a disk needs root")
    image, disk = tmp_path / "image", tmp_path / "failing"
    disk.mkdir()
    image.write_bytes(b"")
    os.truncate(image, 64 * MIB)
    _run("mkfs.ext4", "-q", "-F", image)
    device = _run("losetup", "--find", "--show", image)
    try:
        _run("mount", "-o", "errors=remount-ro", device, disk)
        yield disk, device
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)
        subprocess.run(["losetup", "-d", device], check=True)


def test_a_disk_that_became_read_only_is_read(
    failing_disk: tuple[Path, str], tmp_path: Path
) -> None:
    """Encrypted files too, with their password, which is guessed as rarely as ever; whatever
    writes is refused for now, and nothing is lost."""
    disk, device = failing_disk
    data, content = disk / "data", os.urandom(K)
    with Server(data, config=CONFIG, log=tmp_path / "log") as server:
        api = server.api()
        plain = api.finish(api.create(K, K), content, K)["id"]
        locked = api.create(K, K, encrypt_password="right")
        assert api.put(locked, 0, content).status == 200
        sealed = api.complete(locked).json()["id"]
        task = api.create(2 * K, K)
        assert api.put(task, 0, content).status == 200

        def read(password: str) -> int:
            known = {"X-Encrypt-Password": password}
            answer = server.api().call("GET", f"/api/files/{sealed}", headers=known)
            assert (answer.body == content) is (answer.status == 200)
            return answer.status

        Path(f"/sys/fs/ext4/{Path(device).name}/trigger_fs_error").write_text("x")
        assert api.download(plain) == content
        assert read("right") == 200
        guessed = [read("wrong") for _ in range(13)]
        assert guessed == [403] * 10 + [429] * 3
        assert read("right") == 200
        assert len(api.files()) == 2
        kind = {"Content-Type": "application/json"}
        for answer in (
            api.try_create(K, K),
            api.try_create(K, K, encrypt_password="p"),
            api.put(task, 1, content),
            api.form(task, 1, content),
            api.call("DELETE", f"/api/files/upload/{task}"),
            api.call("DELETE", f"/api/files/{plain}"),
            api.call("PATCH", f"/api/files/{plain}/name", b'{"name": "x"}', kind),
            api.post_json("/api/bundles", {"name": "b", "passcode": "p"}),
            api.post_json(f"/api/files/{plain}/links", {}),
        ):
            assert (answer.status, answer.code) == (503, "STORAGE_FAILED"), answer
            assert int(answer.headers["retry-after"]) > 0
        assert not server.bugs()
        server.kill()
        for repair in (("umount", disk), ("e2fsck", "-fy", device), ("mount", device, disk)):
            _run(*repair)
        api = server.start().api()
        assert read("right") == 200
        assert api.uploaded(task) == [0]
        api.finish(task, content * 2, K)


def test_i5_what_cannot_fit_is_refused_at_create(small_disk: Path, tmp_path: Path) -> None:
    data = small_disk / "data"
    with Server(data, config=CONFIG, log=tmp_path / "log") as server:
        api = server.api()
        for size in (60 * MIB, 1 << 50, 10**18):
            answer = api.try_create(size, max(K, size // 1000))
            assert answer.status in (413, 507), answer
            assert answer.code in ("STORAGE_FULL", "FILE_TOO_LARGE")
        assert api.try_create(60 * MIB, K).code == "STORAGE_FULL"
        assert api.tasks() == []
        assert not fsck.keys(data)
        held = api.create(30 * MIB, K)
        assert api.try_create(30 * MIB, K).code == "STORAGE_FULL"  # that space is spoken for
        assert len(fsck.keys(data)) == 1
        assert api.call("DELETE", f"/api/files/upload/{held}").status == 204
        task = api.create(30 * MIB, 10 * MIB)
        content = os.urandom(10 * MIB) * 3
        api.finish(task, content, 10 * MIB)
        assert not server.bugs()


def test_i1_a_disk_that_fills_up_later(small_disk: Path, tmp_path: Path) -> None:
    """Chunks have their place, but the catalog cannot grow: 507 until there is room."""
    data = small_disk / "data"
    content = os.urandom(4 * MIB)
    part = 8 << 10
    count = len(content) // part
    with Server(data, config=CONFIG, log=tmp_path / "log") as server:
        api = server.api()
        task = api.create(len(content), part)
        other = api.create(100, 100)
        filler = small_disk / "filler"
        _fill(filler)
        acknowledged, refused = [], 0
        for index in range(count):
            answer = api.put(task, index, content[index * part : (index + 1) * part])
            if answer.status == 200:
                acknowledged.append(index)
                continue
            assert (answer.status, answer.code) == (507, "STORAGE_FULL"), answer
            refused += 1
            if refused == 5:
                break
        assert refused == 5, "the disk was not full"
        assert api.try_create(100, 100).code == "STORAGE_FULL"
        assert api.call("GET", "/health/live").status == 200
        assert set(acknowledged) <= set(api.uploaded(task))
        filler.unlink()
        server.kill()  # what was acknowledged with no room left is durable all the same
        assert not fsck.problems(data)
        server.start()
        api = server.api()
        assert set(acknowledged) <= set(api.uploaded(task))
        api.finish(task, content, part)
        api.finish(other, bytes(100), 100)
        assert not server.bugs()


def test_it_goes_on_by_itself_when_there_is_room_again(small_disk: Path, tmp_path: Path) -> None:
    data = small_disk / "data"
    content = os.urandom(MIB)
    with Server(data, config=CONFIG, log=tmp_path / "log") as server:
        api = server.api()
        task = api.create(len(content), 1024)
        assert api.put(task, 0, content[:1024]).status == 200
        filler = small_disk / "filler"
        _fill(filler)
        statuses = [
            api.put(task, at, content[at * 1024 : (at + 1) * 1024]).status for at in range(1024)
        ]
        assert set(statuses) <= {200, 507}
        assert 507 in statuses
        again = api.put(task, 0, b"x" * 1024)  # a side object has no place reserved
        assert again.status in (200, 507)
        filler.unlink()
        assert api.put(task, 0, content[:1024]).status == 200
        api.finish(task, content, 1024)
        assert not server.bugs()


# copies


def _copy(source: Path, target: Path) -> None:
    # What vanishes meanwhile is not an error.
    subprocess.run(["cp", "-a", str(source), str(target)], check=False)


def _recover(copy: Path) -> None:
    """What docs/operations.md asks for after copying the folder of a running server."""
    command = [UPWELL, "recover", "--drop-damaged", "--data", str(copy)]
    subprocess.run(command, check=True, capture_output=True)


class _Busy(threading.Thread):
    """Uploads files, one after the other, until told to stop."""

    def __init__(self, api: Api) -> None:
        super().__init__(daemon=True)
        self._api = api
        self.stop = threading.Event()
        self.contents: dict[str, bytes] = {}  # by task
        self.files: dict[str, bytes] = {}

    def run(self) -> None:
        while not self.stop.is_set():
            content = os.urandom(8 * K)
            digest = hashlib.sha256(content).hexdigest()
            task = self._api.create(len(content), K, hash=digest)
            self.contents[task] = content
            for index in range(8):
                self._api.put(task, index, content[index * K : (index + 1) * K])
                if self.stop.is_set():
                    return
            self.files[self._api.complete(task).json()["id"]] = content


def test_a_plain_copy_made_while_uploads_run_is_recoverable(data: Path, tmp_path: Path) -> None:
    _copied_while_uploads_run(data, tmp_path, _copy)


def test_a_copy_that_begins_with_a_snapshot_is_recoverable(data: Path, tmp_path: Path) -> None:
    """Rows first, bytes after them: what a row names is in the copy."""

    def copy(source: Path, target: Path) -> None:
        target.mkdir()
        catalog = SqlCatalog.open(source / "catalog.sqlite")
        catalog.snapshot(target / "catalog.sqlite")
        catalog.close()
        _copy(source / "pools", target / "pools")

    _copied_while_uploads_run(data, tmp_path, copy)


def _copied_while_uploads_run(
    data: Path, tmp_path: Path, make: Callable[[Path, Path], None]
) -> None:
    copies = [tmp_path / f"copy{number}" for number in range(2)]
    with Server(data) as server:
        busy = [_Busy(server.api()) for _ in range(3)]
        for each in busy:
            each.start()
        before: list[dict[str, bytes]] = []
        for copy in copies:
            threading.Event().wait(0.7)
            before.append({id_: content for each in busy for id_, content in each.files.items()})
            make(data, copy)
        for each in busy:
            each.stop.set()
            each.join(20)
    contents = {task: content for each in busy for task, content in each.contents.items()}
    assert before[0]
    for copy, files in zip(copies, before, strict=True):
        _recover(copy)
        with Server(copy) as server:
            api = server.api()
            for file, content in files.items():
                assert api.download(file) == content
            for task in [each["task_id"] for each in api.tasks()]:
                _go_on(api, task, contents[task])
            assert not server.bugs()


def _go_on(api: Api, task: str, content: bytes) -> None:
    """As a careful client does: what is missing, and after HASH_MISMATCH everything."""
    for index in api.resume(task)["missing_chunks"]:
        assert api.put(task, index, content[index * K : (index + 1) * K]).status == 200
    answer = api.complete(task)
    if answer.status != 200:
        assert answer.code in ("HASH_MISMATCH", "CHUNKS_MISSING"), answer
        for index in range(len(content) // K):
            assert api.put(task, index, content[index * K : (index + 1) * K]).status == 200
        answer = api.complete(task)
    assert answer.status == 200, answer
    assert api.download(answer.json()["id"]) == content


def _copy_catalog(source: Path, target: Path) -> None:
    for file in source.glob("catalog.sqlite*"):
        shutil.copy2(file, target / file.name)


def _copy_bytes(source: Path, target: Path) -> None:
    """The data alone, as `cp` does first; it copies extended attributes after it."""
    for folder, _, names in os.walk(source / "pools"):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(Path(folder) / name, here / name)


def _copy_attributes(source: Path, target: Path) -> None:
    for path in source.glob("pools/*/blobs/*/*"):
        with suppress(FileNotFoundError):
            shutil.copystat(path, target / path.relative_to(source))


def test_i4_in_a_copy_with_rows_newer_than_its_bytes_complete_tells(
    data: Path, tmp_path: Path
) -> None:
    """The bytes of an upload are copied, then chunks arrive (and are hashed), then `cp` copies
    the file's attributes and the catalog. What is verified must be the bytes that are there."""
    content = os.urandom(8 * K)
    digest = hashlib.sha256(content).hexdigest()
    copy = tmp_path / "copy"
    copy.mkdir()
    with Server(data) as server:
        api = server.api()
        task = api.create(len(content), K, hash=digest)
        assert api.put(task, 0, content[:K]).status == 200
        _copy_bytes(data, copy)
        for index in range(1, 8):
            assert api.put(task, index, content[index * K : (index + 1) * K]).status == 200
        threading.Event().wait(0.5)  # the digest follows
        _copy_attributes(data, copy)
        _copy_catalog(data, copy)
    _recover(copy)
    with Server(copy) as server:
        api = server.api()
        answer = api.complete(task)
        assert answer.status != 200 or api.download(answer.json()["id"]) == content, (
            "a file was completed as verified whose bytes are not there"
        )
        assert answer.code in ("HASH_MISMATCH", "CHUNKS_MISSING")


def test_a_damaged_chunk_is_repaired_by_sending_it_again(data: Path) -> None:
    """As contract 1.3 promises: complete names what is wrong; send it, and complete again."""
    content = os.urandom(2 * K)
    digest = hashlib.sha256(content).hexdigest()
    with Server(data) as server:
        task = server.api().create(len(content), K, hash=digest)
        assert server.api().put(task, 0, content[:K]).status == 200
        server.kill()
        [path] = (data / "pools" / "default" / "blobs").glob("*/*")
        with path.open("r+b") as file:
            file.write(bytes(K))
        with suppress(OSError):
            os.removexattr(path, "user.upwell.memo")
        server.start()
        api = server.api()
        assert api.put(task, 1, content[K:]).status == 200
        refused = api.complete(task)
        assert refused.code == "CHUNKS_MISSING"
        assert refused.json()["meta"] == {"missing_chunks": [0]}
        assert api.put(task, 0, content[:K]).status == 200
        assert api.complete(task).status == 200


def test_i2_in_a_copy_an_upload_without_a_hash_is_honest_too(data: Path, tmp_path: Path) -> None:
    content = os.urandom(8 * K)
    copy = tmp_path / "copy"
    copy.mkdir()
    with Server(data) as server:
        api = server.api()
        task = api.create(len(content), K)
        assert api.put(task, 0, content[:K]).status == 200
        _copy_bytes(data, copy)
        for index in range(1, 8):
            assert api.put(task, index, content[index * K : (index + 1) * K]).status == 200
        _copy_catalog(data, copy)
    _recover(copy)
    with Server(copy) as server:
        api = server.api()
        answer = api.complete(task)
        assert answer.status != 200 or api.download(answer.json()["id"]) == content


def test_i4_in_a_copy_a_file_completed_meanwhile_is_whole_or_refused(
    data: Path, tmp_path: Path
) -> None:
    content = os.urandom(2 * K)
    copy = tmp_path / "copy"
    copy.mkdir()
    with Server(data) as server:
        api = server.api()
        task = api.create(len(content), K)
        _copy_bytes(data, copy)
        file = api.finish(task, content, K)
        _copy_catalog(data, copy)
    _recover(copy)
    with Server(copy) as server:
        answer = server.api().call("GET", f"/api/files/{file['id']}")
        assert answer.status != 200 or answer.body == content


def test_a_copy_across_a_checkpoint_keeps_what_was_there_before(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    with Server(data) as server:
        api = server.api()
        content = os.urandom(K)
        old = api.finish(api.create(K, K), content, K)
        tasks = [api.create(4 * K, K) for _ in range(60)]
        shutil.copy2(data / "catalog.sqlite", copy / "catalog.sqlite")
        for task in tasks:
            api.put(task, 0, bytes(K))
        with closing(sqlite3.connect(data / "catalog.sqlite", timeout=30)) as connection:
            connection.execute("PRAGMA wal_checkpoint(RESTART)")
        for task in tasks[:30]:
            api.put(task, 1, bytes(K))
        for name in ("catalog.sqlite-wal", "catalog.journal", "catalog.snapshot"):
            shutil.copy2(data / name, copy / name)
        _copy_bytes(data, copy)
    _recover(copy)
    with Server(copy) as server:
        assert server.api().download(old["id"]) == content
