from __future__ import annotations

import io
import json
import os
import pty
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from tests.client.fake_server import TOKEN
from upwell.cli.show import Display, Output, plain, wait_text
from upwell.client import ApiError, ConnectionFailed, Wait
from upwell.client.errors import Refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run, Start
    from tests.client.fake_server import FakeServer


def lines(text: str) -> list[dict[str, Any]]:
    """Every line of ``text`` is a JSON object, or this fails."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def big(tmp_path: Path) -> Path:
    path = tmp_path / "big.bin"
    path.write_bytes(os.urandom(200_017))
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.txt"
    path.write_bytes(b"hello")
    return path


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_put_get_round_trip(run: Run, server: FakeServer, big: Path, tmp_path: Path) -> None:
    put = run("put", big, "--chunk-size", "10000", "--json")
    assert put.exit_code == 0
    (record,) = lines(put.stdout)
    assert record["status"] == "uploaded"
    assert record["path"] == str(big)
    assert record["file"]["size"] == 200_017

    (tmp_path / "down").mkdir()
    got = run("get", record["file"]["id"], "-o", tmp_path / "down", "--json")
    assert got.exit_code == 0
    (record,) = lines(got.stdout)
    assert record["path"] == str(tmp_path / "down" / "big.bin")
    assert (tmp_path / "down" / "big.bin").read_bytes() == big.read_bytes()


def test_a_person_reads_lines(run: Run, big: Path, small: Path) -> None:
    result = run("put", big, small)
    assert result.exit_code == 0
    assert result.stdout.count("uploaded") == 2
    assert "already there" in run("put", small).stdout
    assert run("put", small, "--quiet").output == ""


def test_existing_content_is_told_to_scripts(run: Run, small: Path) -> None:
    run("put", small)
    assert lines(run("put", small, "--json").stdout)[0]["status"] == "existing"


def test_options_reach_the_server(run: Run, server: FakeServer, small: Path) -> None:
    result = run(
        *("put", small, "--name", "n", "--pool", "p", "--bundle", "b"),
        *("--content-type", "x/y", "--expires", "7d", "--chunk-size", "2"),
    )
    assert result.exit_code == 0
    (task,) = server.tasks.values()
    asked = {key: task.request[key] for key in ("file_name", "pool_id", "bundle_id")}
    assert asked == {"file_name": "n", "pool_id": "p", "bundle_id": "b"}
    assert task.request["content_type"] == "x/y"
    assert task.request["chunk_size"] == 2
    assert task.request["expires_in"] == 7 * 86_400, "by the server's clock"


def test_it_continues_after_a_file_that_failed(
    run: Run, server: FakeServer, big: Path, small: Path, tmp_path: Path
) -> None:
    result = run("put", big, tmp_path / "absent", small, "--json")
    assert result.exit_code == 1
    records = lines(result.stdout)
    told = {record["path"]: record for record in records}
    wanted = {str(big): "uploaded", str(tmp_path / "absent"): "failed", str(small): "uploaded"}
    assert {path: record["status"] for path, record in told.items()} == wanted
    assert told[str(tmp_path / "absent")]["error"]["code"] == "LOCAL_FILE"
    assert len(server.files) == 2


def test_a_folder_needs_recursive(run: Run, server: FakeServer, tmp_path: Path) -> None:
    result = run("put", tmp_path)
    assert result.exit_code == 2
    assert "--recursive" in result.stderr
    assert not server.requests


def test_recursive_names_are_relative(run: Run, server: FakeServer, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_bytes(b"1")
    (folder / "sub" / "b").write_bytes(b"22")
    (folder / "loop").symlink_to(folder)
    os.mkfifo(folder / "pipe")
    result = run("put", "-r", folder)
    assert result.exit_code == 1, "some of several"
    assert sorted(file.name for file in server.files.values()) == ["a", "sub/b"]
    assert "pipe is not a regular file" in result.stderr
    assert "loop is a link to a folder" in result.stderr
    assert "4 files: 2 uploaded" in result.stderr
    assert "2 failed" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["put", "small.txt", "--expires", "soon"], 2),
        (["put", "small.txt", "--chunk-size", "big"], 2),
        (["put", "small.txt", "--connections", "0"], 2),
        (["put", "small.txt", "--patience", "x"], 2),
        (["put", "small.txt", "small.txt", "--name", "x"], 2),
        (["put", "small.txt", "--token-file", "absent"], 2),
        (["put", "--nonsense"], 2),
        (["put"], 2),
        (["nonsense"], 2),
        (["put", "absent"], 6),
        (["put", "absent", "absent2"], 6),
        (["get", "absent"], 5),
        (["get", "absent", "../x"], 1),
        (["get", "../x"], 2),
        (["get", "f1", "f2", "-o", "nowhere"], 2),
        (["get", "f1", "-o", "-", "--json"], 2),
        (["rm", "absent"], 5),
        (["cancel", "absent"], 5),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_exit_codes(
    arguments: list[str],
    code: int,
    run: Run,
    small: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == code
    assert result.stderr


def test_exit_code_unauthorised(
    run: Run, small: Path, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWELL_TOKEN", "wrong-secret")
    result = run("put", small, big, "--json")
    assert result.exit_code == 4
    records = lines(result.stdout)
    assert [record["error"]["code"] for record in records] == ["TOKEN_INVALID"] * 2
    assert "wrong-secret" not in result.output
    refused = run("ls")
    assert refused.exit_code == 4
    assert "Set UPWELL_TOKEN" in refused.stderr
    assert "Bearer" not in refused.stderr


@pytest.mark.parametrize("name", ["absent", "pipe", "b\nc"])
def test_an_error_names_its_file_once(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "pipe":
        os.mkfifo(path)
    result = run("put", path)
    assert result.exit_code == 6
    assert result.stderr.count(plain(path)) == 1
    assert run("get", "../x").stderr.count("../x") == 1


def test_a_wait_before_a_bar_is_shown_is_told_on_a_terminal() -> None:
    """``get`` asks first whether a password is needed."""
    output, written = Output(), io.StringIO()
    output.console = Console(file=written, force_terminal=True)
    display = Display(output, files=1, total=None)
    lost = Wait(4.0, ConnectionFailed("No answer."))
    display.wait(lost)
    assert written.getvalue().count("connection lost, retrying in 4 s") == 1
    with display.live():
        display.wait(None)
        display.wait(lost)
    assert "going on" not in written.getvalue(), "the bar tells"


@pytest.mark.slow
def test_a_server_that_is_not_there_is_told_with_what_follows(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWELL_SERVER", closed_port())
    monkeypatch.setattr("upwell.cli.run.connect.__defaults__", (1.0, None))
    result = run("ls")
    assert result.exit_code == 3
    first, *rest = result.stderr.splitlines()
    assert first.endswith("Connection refused. Retrying for up to 1 s.")
    assert [line.startswith("upwell: Gave up. No answer from") for line in rest] == [True]


def test_exit_code_unreachable(
    run: Run, small: Path, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWELL_SERVER", closed_port())
    result = run("put", small, big, "--json", "--patience", "0")
    assert result.exit_code == 3
    assert [record["error"]["code"] for record in lines(result.stdout)] == ["CONNECTION_FAILED"] * 2
    assert run("put", small, "--patience", "1s").exit_code == 3


def test_exit_code_refused_shows_the_servers_words(
    run: Run, server: FakeServer, small: Path
) -> None:
    refusal = {"code": "QUOTA_EXCEEDED", "message": "3 MB too much.", "trace_id": "tr-1"}
    server.fail("create", "answer", status=403, body=refusal)
    result = run("put", small)
    assert result.exit_code == 5
    assert "3 MB too much. [QUOTA_EXCEEDED, trace tr-1]" in result.stderr


def test_a_file_that_changes_is_a_local_problem(run: Run, server: FakeServer, big: Path) -> None:
    def change(_: int) -> None:
        big.write_bytes(b"changed")

    server.on_chunk = change
    result = run("put", big, "--chunk-size", "10000", "--json")
    assert result.exit_code == 6
    assert lines(result.stdout)[0]["error"]["code"] == "FILE_CHANGED"


def test_a_state_that_cannot_be_kept_is_told(
    run: Run, server: FakeServer, small: Path, tmp_path: Path
) -> None:
    (tmp_path / "state").write_text("in the way")
    result = run("put", small)
    assert result.exit_code == 0
    assert "cannot be continued later" in result.stderr


@pytest.mark.slow
def test_waits_are_told_once(run: Run, server: FakeServer, small: Path) -> None:
    server.fail("create", "reset", times=2)
    result = run("put", small)
    assert result.exit_code == 0
    assert result.stderr.count("connection lost, retrying in") == 1
    assert result.stderr.count("going on") == 1


def test_get_to_stdout(run: Run, server: FakeServer, big: Path) -> None:
    file = server.add(big.read_bytes())
    result = run("get", file.id, "-o", "-")
    assert result.exit_code == 0
    assert result.stdout_bytes == big.read_bytes()


def test_get_refuses_to_overwrite(run: Run, server: FakeServer, small: Path) -> None:
    file = server.add(b"other")
    assert run("get", file.id, "-o", small).exit_code == 6
    assert small.read_bytes() == b"hello"
    assert run("get", file.id, "-o", small, "--force").exit_code == 0
    assert small.read_bytes() == b"other"


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_files_of_one_name_do_not_replace_each_other(
    run: Run, server: FakeServer, tmp_path: Path, force: list[str]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    names = ["a/x.txt", "b/x.txt", "x.txt", "y"]
    files = [server.add(name.encode(), name) for name in names]
    result = run("get", *(file.id for file in files), "-o", out, *force)
    assert result.exit_code == 0
    found = {path.name: path.read_text() for path in out.iterdir()}
    assert found == {"x.txt": "a/x.txt", "x (2).txt": "b/x.txt", "x (3).txt": "x.txt", "y": "y"}
    again = run("get", files[1].id, "-o", out, *force)
    assert again.exit_code == (0 if force else 6), "one of an earlier run"


def test_names_cannot_act_on_the_terminal(
    run: Run, server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = server.add(b"1", "\x1b[31mred[bold]\n\tx")
    result = run("get", file.id)
    assert result.exit_code == 0
    assert "\x1b" not in result.output
    listing = run("ls").stdout
    assert "\x1b" not in listing
    assert len(listing.splitlines()) == 1
    assert "[bold]" in listing


def test_ls_rm_tasks_cancel(run: Run, server: FakeServer, small: Path) -> None:
    for number in range(250):
        server.add(b"x" * number, f"n{number}")
    some = run("ls")
    assert len(some.stdout.splitlines()) == 50
    assert some.stderr == "50 of 250 are listed; --all lists every one.\n"
    every = run("ls", "--all")
    assert (len(every.stdout.splitlines()), every.stderr) == (250, "")
    assert len(lines(run("ls", "--json", "--all").stdout)) == 250
    assert run("ls", "--offset", "240").stderr == ""
    found = lines(run("ls", "--json", "--limit", "220", "--offset", "20").stdout)
    assert [file["name"] for file in found] == [f"n{number}" for number in range(20, 240)]
    assert len(lines(run("ls", "--json", "--limit", "9999").stdout)) == 250

    assert lines(run("rm", "f1", "nope", "--json").stdout)[0] == {"id": "f1", "status": "deleted"}
    assert run("rm", "f2", "f1").exit_code == 1
    assert "f2" not in server.files

    server.create({"file_name": "open", "file_size": 7})
    (task,) = lines(run("tasks", "--json").stdout)
    assert run("tasks").stdout.split("\t")[1] == "open"
    assert run("cancel", task["task_id"]).exit_code == 0
    assert run("tasks").stdout == ""
    assert len(run("tasks", "--all").stdout.splitlines()) == 1


def test_the_token_can_come_from_a_file(
    run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UPWELL_TOKEN", "wrong")
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert run("put", small, "--token-file", tmp_path / "token").exit_code == 0


def test_unknown_settings_are_named(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "config" / "upwell").mkdir(parents=True)
    (tmp_path / "config" / "upwell" / "upwell.toml").write_text("[client]\ntokn = 'x'\n")
    result = run("put", small)
    assert result.exit_code == 2
    assert "`tokn`" in result.stderr


def test_a_name_that_is_not_utf8_is_no_obstacle(
    run: Run, server: FakeServer, tmp_path: Path
) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9"
    with open(path, "wb") as file:  # noqa: PTH123 - bytes, on purpose
        file.write(b"1")
    result = run("put", os.fsdecode(path), "--json")
    assert result.exit_code == 0
    assert lines(result.stdout)[0]["file"]["name"] == "caf?"
    assert run("put", os.fsdecode(path)).exit_code == 0


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_and_resume(times: int, start: Start, server: FakeServer, big: Path) -> None:
    server.delay = 0.05
    underway = threading.Event()
    server.on_chunk = lambda _: underway.set()
    for _ in range(times):
        underway.clear()
        process = start("put", big, "--chunk-size", "5000", "--connections", "2", "--json")
        assert underway.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130
        assert lines(out)[0]["error"]["code"] == "INTERRUPTED"
        assert "run the same command again" in err
        assert "Traceback" not in err
    server.delay = 0.0
    process = start("put", big, "--chunk-size", "5000", "--json")
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert lines(out)[0]["status"] == "uploaded"
    (task,) = server.tasks.values()
    assert task.file
    assert task.file.content == big.read_bytes()
    # A chunk that was on its way when the signal came may be sent twice.
    assert sum(server.chunk_counts.values()) <= len(server.chunk_counts) + 2 * times


@pytest.mark.slow
def test_ctrl_c_while_waiting_for_the_network(start: Start, server: FakeServer, big: Path) -> None:
    server.fail("create", "answer", status=503, headers={"Retry-After": "60"})
    process = start("put", big)
    assert process.stderr
    assert "retrying in 60 s" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


@pytest.mark.slow
def test_ctrl_c_while_a_chunk_hangs(start: Start, server: FakeServer, big: Path) -> None:
    hang, hanging = threading.Event(), threading.Event()

    def wait(_: int) -> None:
        hanging.set()
        hang.wait(30)

    server.on_chunk = wait
    process = start("put", big, "--chunk-size", "5000")
    assert hanging.wait(20)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=25)
    hang.set()
    assert process.returncode == 130


@pytest.mark.slow
def test_a_killed_put_is_resumed(start: Start, server: FakeServer, big: Path) -> None:
    server.delay = 0.05
    underway = threading.Event()
    server.on_chunk = lambda _: underway.set()
    process = start("put", big, "--chunk-size", "5000")
    assert underway.wait(20)
    process.kill()
    process.communicate()
    server.delay = 0.0
    process = start("put", big, "--chunk-size", "5000")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert len(server.tasks) == 1


@pytest.mark.slow
def test_two_puts_of_one_file_at_once(start: Start, server: FakeServer, big: Path) -> None:
    underway, waiting = threading.Event(), threading.Event()

    def hold(_: int) -> None:
        underway.set()
        assert waiting.wait(30)

    server.on_chunk = hold
    first = start("put", big, "--chunk-size", "5000", "--json")
    assert underway.wait(30)
    second = start("put", big, "--chunk-size", "5000", "--json")
    assert second.stderr
    assert "Another run is sending this file" in second.stderr.readline()
    waiting.set()
    records = [lines(process.communicate(timeout=30)[0])[0] for process in (first, second)]
    assert [record["status"] for record in records] == ["uploaded", "existing"]
    assert set(server.chunk_counts.values()) == {1}


@pytest.mark.slow
def test_json_is_pure_while_the_bar_moves(start: Start, server: FakeServer, big: Path) -> None:
    server.delay = 0.05
    server.fail("PUT", "reset", times=8)
    controller, terminal = pty.openpty()
    process = start("put", big, "--chunk-size", "5000", "--json", stderr=terminal)
    os.close(terminal)
    seen = b""
    try:
        while piece := os.read(controller, 65536):
            seen += piece
    except OSError:  # the other end is closed
        pass
    out, _ = process.communicate(timeout=30)
    os.close(controller)
    assert lines(out)[0]["status"] == "uploaded"
    assert b"big.bin" in seen
    assert b"connection lost, retrying" in seen
    assert b"kB/s" in seen


@pytest.mark.slow
def test_help_is_quick_and_loads_nothing_heavy(start: Start) -> None:
    process = start("--help")
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    for command in ("put", "get", "ls", "rm", "tasks", "cancel", "serve", "account", "token"):
        assert f" {command} " in out
    assert "130 interrupted" in " ".join(out.split())


@pytest.mark.parametrize("code", ["TOO_MANY_OPEN_UPLOADS", "TOO_MANY_UNSENT_BYTES"])
def test_who_waits_for_uploads_in_progress_learns_what_to_look_at(code: str) -> None:
    refusal = Refusal(status=429, code=code, message="Complete or cancel some.", retry_after=30.0)
    assert "upwell tasks" in wait_text(Wait(30.0, ApiError(refusal)), 30.0)
