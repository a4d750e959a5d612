"""``upwell recover``: what a person and a script see, and the exit codes."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.core.world import Core, FakeClock, content
from upwell import app
from upwell.catalog import FolderCatalog
from upwell.config import Settings
from upwell.model import CloudFile, Principal, Scope

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def file(data: Path) -> CloudFile:
    """A file of a server that was stopped."""
    settings = Settings(data=data)
    with closing(app.open_catalog(settings)) as catalog:
        core = Core(catalog, app.open_homes(settings, catalog), FakeClock())
        account = core.accounts.create("ann")
        made = core.upload(Principal(account, frozenset(Scope), "t"), content(100))
        core.uploads.close()
        catalog.renew_snapshot()
    return made


def bytes_of(data: Path, file: CloudFile) -> Path:
    return data / "pools" / "default" / "blobs" / file.blob.key[:2] / file.blob.key


def test_a_sound_folder(run: Run, data: Path, file: CloudFile) -> None:
    done = run("recover", "--data", data)
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, "All is well.")
    assert json.loads(run("recover", "--data", data, "--json").stdout) == {
        "well": True,
        "damaged_catalog": None,
        "uploads": 0,
        "uploads_closed": 0,
        "chunks": 0,
        "chunks_forgotten": 0,
        "chunks_unreadable": 0,
        "blobs": 1,
        "files_restored": 0,
        "figures_mended": 0,
        "damaged": [],
        "dropped": [],
        "pools_unknown": [],
    }


def test_damaged_files_are_listed_until_they_are_dropped(
    run: Run, data: Path, file: CloudFile
) -> None:
    bytes_of(data, file).write_bytes(content(100, 1))
    done = run("recover", "--data", data)
    assert done.exit_code == 1
    assert f"Damaged\t{file.id}\ta.bin\tann\tother bytes than were uploaded" in done.stdout
    assert "--drop-damaged" in done.stdout
    assert json.loads(run("recover", "--data", data, "--json").stdout)["damaged"] == [
        {
            "id": file.id,
            "name": "a.bin",
            "account": "ann",
            "problem": "other bytes than were uploaded",
        }
    ]
    assert run("recover", "--data", data, "--drop-damaged").exit_code == 0
    assert bytes_of(data, file).exists()
    assert run("recover", "--data", data).exit_code == 0


def test_a_damaged_catalog(run: Run, data: Path, file: CloudFile) -> None:
    (data / "catalog.sqlite").write_bytes(b"rubbish" * 2000)
    for command in (["serve", "--port", "0"], ["login"], ["account", "list"]):
        done = run(*command, "--data", data)
        assert done.exit_code == 1
        assert "upwell recover" in done.stderr
        assert isinstance(done.exception, SystemExit)
    done = run("recover", "--data", data)
    assert done.exit_code == 0
    assert "damaged-" in done.stdout
    assert run("account", "list", "--data", data).stdout.startswith("ann\t")


def test_no_snapshot(run: Run, data: Path, file: CloudFile) -> None:
    (data / "catalog.snapshot").unlink()
    (data / "catalog.sqlite").write_bytes(b"rubbish" * 2000)
    done = run("recover", "--data", data)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no good snapshot" in done.stderr
    assert (data / "catalog.sqlite").read_bytes() == b"rubbish" * 2000


def test_a_folder_in_use_and_none_at_all(run: Run, data: Path, file: CloudFile) -> None:
    with closing(FolderCatalog.open_folder(data)):
        done = run("recover", "--data", data)
    assert done.exit_code == 1
    assert "stop the server first" in done.stderr
    assert run("recover", "--data", data / "nothing").exit_code == 1
