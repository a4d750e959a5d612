from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upwell.client import Given, SettingsError, load_settings
from upwell.client.api import parse_retry_after
from upwell.client.model import Digest, UploadTask
from upwell.client.units import parse_duration, parse_end, parse_size

if TYPE_CHECKING:
    from pathlib import Path

NOW = datetime(2026, 11, 23, 4, 5, 6, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5242880", 5 << 20),
        ("5MiB", 5 << 20),
        ("5 mib", 5 << 20),
        ("8M", 8 << 20),
        ("8k", 8192),
        ("10MB", 10_000_000),
        ("1.5GiB", 3 << 29),
        ("1T", 1 << 40),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "M", "5XB", "1e3", "0.1", "٣", "5 Mi B", "9" * 30])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_size(text)


@given(st.integers(1, 10**18 - 1))
def test_a_number_is_bytes(size: int) -> None:
    assert parse_size(str(size)) == size


@given(st.text(max_size=12))
def test_any_text_is_a_size_or_an_error(text: str) -> None:
    with suppress(SettingsError):
        assert parse_size(text) >= 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("90", 90), ("90s", 90), ("15m", 900), ("12h", 43_200), ("1d12h", 129_600)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "m", "5x", "-5m", "1.5h", "5m3", "999999999w"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("7d", timedelta(days=7)),
        ("12h", timedelta(hours=12)),
        ("2030-01-31T12:00:00Z", datetime(2030, 1, 31, 12, tzinfo=UTC)),
        ("2030-01-31T12:00:00+02:00", datetime(2030, 1, 31, 10, tzinfo=UTC)),
    ],
)
def test_expiries(text: str, end: datetime | timedelta) -> None:
    assert parse_end(text) == end


@pytest.mark.parametrize(
    "text", ["", "soon", "0d", "1800", "2030-13-01", "999999999w", "0001-01-01T00:00+23:59"]
)
def test_what_is_no_expiry(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_end(text)


@given(st.text(max_size=20))
def test_any_text_is_an_expiry_or_an_error(text: str) -> None:
    with suppress(SettingsError):
        assert parse_end(text)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        ("Mon, 23 Nov 2026 04:05:16 GMT", 10.0),
        ("Mon, 23 Nov 2026 04:00:00 GMT", 0.0),
        ("soon", None),
        ("-3", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, NOW) == seconds


@given(st.integers(0, 10_000), st.integers(7, 10_001))
def test_the_chunks_of_a_task_cover_its_file(size: int, chunk_size: int) -> None:
    count = -(-size // chunk_size)
    answer = {"task_id": "t", "chunk_size": chunk_size, "chunks_count": count}
    task = UploadTask.created(answer, "name", size)
    position = 0
    for index in task.missing[:3] + task.missing[3:][-3:]:
        assert 0 < task.length(index) <= chunk_size
        assert task.offset(index) + task.length(index) <= size
        position = task.offset(index) + task.length(index)
    assert position == size


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        ("0" * 32, "md5"),
        ("A" * 40, "sha1"),
        ("sha256:" + "f" * 64, "sha256"),
        ("0" * 128, "sha512"),
        ("", None),
        ("0" * 33, None),
        ("x" * 64, None),
    ],
)
def test_digests(text: str, algorithm: str | None) -> None:
    digest = Digest.parse(text)
    assert (digest and digest.algorithm) == algorithm


def settings_file(tmp_path: Path, text: str) -> dict[str, str]:
    path = tmp_path / "upwell.toml"
    path.write_text(text)
    return {"UPWELL_CONFIG": str(path)}


def test_defaults(tmp_path: Path) -> None:
    settings = load_settings(environ={"XDG_CONFIG_HOME": str(tmp_path)})
    assert settings.server == "http://127.0.0.1:8420"
    assert settings.connections == 8
    assert settings.token is None
    assert settings.chunk_size is None


def test_what_is_given_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    environ = settings_file(
        tmp_path,
        '[client]\nserver = "https://file"\ntoken = "f"\nconnections = 2\nchunk_size = "1M"\n',
    )
    assert load_settings(environ=environ).server == "https://file"
    assert load_settings(environ=environ).connections == 2
    assert load_settings(environ=environ).chunk_size == 1 << 20
    environ |= {"UPWELL_SERVER": "https://env", "UPWELL_TOKEN": "e", "UPWELL_CONNECTIONS": "3"}
    settings = load_settings(environ=environ)
    assert (settings.server, settings.token, settings.connections) == ("https://env", "e", 3)
    token = tmp_path / "token"
    token.write_text("given\n")
    given = Given(server="https://given/", token_file=token, connections=5, chunk_size="2M")
    settings = load_settings(given, environ)
    assert (settings.server, settings.token) == ("https://given", "given")
    assert (settings.connections, settings.chunk_size) == (5, 2 << 20)


def test_other_tables_are_the_servers_business(tmp_path: Path) -> None:
    environ = settings_file(tmp_path, '[serve]\nport = 1\n[client]\nserver = "https://a"\n')
    assert load_settings(environ=environ).server == "https://a"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[client]\nserwer = "x"\n', "serwer"),
        ("client = 3\n", "table"),
        ("[client\n", "cannot be read"),
        ("[client]\nconnections = 0\n", "connections"),
        ('[client]\nconnections = "many"\n', "connections"),
        ('[client]\nchunk_size = "big"\n', "size"),
        ('[client]\nserver = "ftp://x"\n', "address"),
    ],
)
def test_a_wrong_file_is_told(text: str, named: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(environ=settings_file(tmp_path, text))


def test_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="does not exist"):
        load_settings(Given(config=tmp_path / "absent"), {})
    with pytest.raises(SettingsError, match="cannot be read"):
        load_settings(Given(token_file=tmp_path / "absent"), {})


@pytest.mark.parametrize(
    "server",
    [" ", "up.example", "http://", "http://[", "http://x:99999", "https://x/?a=b", "//x"],
)
def test_what_is_no_server(server: str) -> None:
    with pytest.raises(SettingsError, match="address"):
        load_settings(Given(server=server), {"XDG_CONFIG_HOME": "/nonexistent"})


@pytest.mark.parametrize("token", ["a b", "a\x07b", "schlüssel"])
def test_a_secret_is_never_quoted(token: str) -> None:
    environ = {"UPWELL_TOKEN": token, "XDG_CONFIG_HOME": "/nonexistent"}
    with pytest.raises(SettingsError) as caught:
        load_settings(environ=environ)
    assert token not in caught.value.message
    with pytest.raises(SettingsError) as caught:
        load_settings(Given(server="https://me:hunter2@up.example"), {})
    assert "hunter2" not in caught.value.message
    assert "hunter2" not in repr(load_settings(environ=environ | {"UPWELL_TOKEN": "hunter2"}))
