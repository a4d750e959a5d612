"""``upwell verify``: what a person and a script see, and the exit codes."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.core.world import CHUNK, Core, FakeClock, content, new_upload
from upwell import app
from upwell.catalog import FolderCatalog, claim_folder
from upwell.config import Settings
from upwell.model import CloudFile, Principal, Scope, UploadTask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cli.conftest import Run


class Running:
    """A server's catalog that is open all the while."""

    def __init__(self, data: Path) -> None:
        self.data = data
        settings = Settings(data=data)
        self.catalog: FolderCatalog = app.open_catalog(settings)
        self.core = Core(self.catalog, app.open_homes(settings, self.catalog), FakeClock())
        self.ann, self.bob = (self._person(name) for name in ("ann", "bob"))

    def _person(self, name: str) -> Principal:
        return Principal(self.core.accounts.create(name), frozenset(Scope), "t")

    def spoil(self, key: str, data: bytes) -> None:
        (self.data / "pools" / "default" / "blobs" / key[:2] / key).write_bytes(data)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path / "data")
    yield made
    made.core.uploads.close()
    made.catalog.close()


@pytest.fixture
def file(running: Running) -> CloudFile:
    return running.core.upload(running.ann, content(100))


def test_all_is_well(run: Run, running: Running, file: CloudFile) -> None:
    done = run("verify", "--data", running.data)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "1 contents and 0 chunks of open uploads were read.",
        "All is well.",
    ]
    assert json.loads(run("verify", "--data", running.data, "--json").stdout) == {
        "well": True,
        "blobs": 1,
        "bytes": 100,
        "chunks": 0,
        "chunks_damaged": 0,
        "chunks_forgotten": 0,
        "chunks_unreadable": 0,
        "figures_mended": 0,
        "damaged": [],
    }


def test_damage_is_told_in_a_sentence_until_it_is_gone(
    run: Run, running: Running, file: CloudFile
) -> None:
    running.spoil(file.blob.key, content(100, 1))
    sentence = (
        f"{file.id}: a.bin of ann in the pool default: its bytes are damaged "
        "(other bytes than were uploaded)."
    )
    for flags in ((), ("--repair",)):  # there is nothing to mend it from
        done = run("verify", "--data", running.data, *flags)
        assert done.exit_code == 1
        assert sentence in done.stdout.splitlines()
    record = json.loads(run("verify", "--data", running.data, "--json").stdout)
    assert (record["well"], record["damaged"][0]["repaired"]) == (False, False)
    running.core.files.delete(running.ann, file.id)
    assert run("verify", "--data", running.data).exit_code == 0


def test_a_damaged_file_gets_its_bytes_back(run: Run, running: Running, file: CloudFile) -> None:
    running.core.upload(running.bob, content(100))
    running.spoil(file.blob.key, content(100, 1))
    done = run("verify", "--data", running.data)
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == "What can be mended, this mends: upwell verify --repair"
    done = run("verify", "--data", running.data, "--repair")
    assert done.exit_code == 0
    assert f"{file.id}: a.bin of ann in the pool default: it has its bytes back" in done.stdout
    assert "bob" not in done.stdout
    assert running.core.read(running.ann, file.id) == content(100)
    assert run("verify", "--data", running.data).exit_code == 0


def test_a_damaged_chunk_is_sent_again(run: Run, running: Running) -> None:
    task = running.core.uploads.create(running.ann, new_upload(content(3 * CHUNK)))
    assert isinstance(task, UploadTask)
    running.core.send_all(running.ann, task, content(3 * CHUNK))
    data = bytearray(content(3 * CHUNK))
    data[CHUNK] ^= 1
    running.spoil(task.layout.key, bytes(data))
    done = run("verify", "--data", running.data)
    assert done.exit_code == 1
    assert "1 chunks of open uploads are damaged." in done.stdout.splitlines()
    done = run("verify", "--data", running.data, "--repair")
    assert done.exit_code == 0
    assert "their clients send them again" in done.stdout
    assert running.catalog.chunk_indexes(task.id) == [0, 2]


def test_no_folder_and_one_that_is_being_recovered(run: Run, tmp_path: Path) -> None:
    done = run("verify", "--data", tmp_path / "nothing")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no data folder" in done.stderr
    assert not (tmp_path / "nothing").exists()
    folder = tmp_path / "data"
    app.open_catalog(Settings(data=folder)).close()
    with closing(claim_folder(folder)):
        done = run("verify", "--data", folder)
    assert done.exit_code == 1
    assert "being recovered" in done.stderr
