"""The client's settings: what the caller passes, then the environment, then the TOML file."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from upwell.client.errors import SettingsError
from upwell.client.units import parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_SERVER = "http://127.0.0.1:8420"
DEFAULT_CONNECTIONS = 8
MAX_CONNECTIONS = 64
KEYS = ("server", "token", "connections", "chunk_size")


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the server is and how to talk to it.

    ``chunk_size`` is in bytes, ``None`` leaves it to the server. ``token`` is a secret: it is
    kept out of ``repr``.
    """

    server: str = DEFAULT_SERVER
    token: str | None = field(default=None, repr=False)
    connections: int = DEFAULT_CONNECTIONS
    chunk_size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the caller passed explicitly; ``None`` is "not given"."""

    server: str | None = None
    token_file: Path | None = None
    connections: int | None = None
    chunk_size: str | None = None
    config: Path | None = None


def load_settings(given: Given | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Put the settings together; what is given wins over the environment, that over the file.

    Raises:
        SettingsError: a value is malformed, a key of the file is unknown, a named file is missing.
    """
    given = given or Given()
    environ = os.environ if environ is None else environ
    table = _client_table(given.config, environ)
    chosen = {key: _first(getattr(given, key, None), environ, table, key) for key in KEYS}
    token = read_token(given.token_file) if given.token_file else chosen["token"]
    return Settings(
        server=_server(chosen["server"] or DEFAULT_SERVER),
        token=None if token is None else _token(token),
        connections=_connections(chosen["connections"]),
        chunk_size=None if chosen["chunk_size"] is None else parse_size(str(chosen["chunk_size"])),
    )


def config_path(environ: Mapping[str, str]) -> Path:
    """The settings file that is read when the caller names none; it need not exist."""
    if named := environ.get("UPWELL_CONFIG"):
        return Path(named).expanduser()
    home = environ.get("XDG_CONFIG_HOME")
    return (Path(home) if home else Path("~/.config").expanduser()) / "upwell" / "upwell.toml"


def state_folder(environ: Mapping[str, str]) -> Path:
    """Where a client remembers its uploads between runs."""
    home = environ.get("XDG_STATE_HOME")
    return (Path(home) if home else Path("~/.local/state").expanduser()) / "upwell"


def read_token(path: Path) -> str:
    """The token that the first line of the file at ``path`` holds.

    Raises:
        SettingsError: the file cannot be read or holds no token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"The token file {path} cannot be read: {error}") from error
    if not lines or not lines[0].strip():
        raise SettingsError(f"The token file {path} is empty.")
    return lines[0]


def _first(given: object, environ: Mapping[str, str], table: Mapping[str, Any], key: str) -> Any:
    if given is not None:
        return given
    return environ.get(f"UPWELL_{key.upper()}") or table.get(key)


def _client_table(config: Path | None, environ: Mapping[str, str]) -> Mapping[str, Any]:
    path = config or config_path(environ)
    required = config is not None or bool(environ.get("UPWELL_CONFIG"))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("client", {})
    except FileNotFoundError as error:
        if not required:
            return {}
        raise SettingsError(f"The settings file {path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise SettingsError(f"The settings file {path} cannot be read: {error}") from error
    return _checked(table, path)


def _checked(table: object, path: Path) -> Mapping[str, Any]:
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: `client` must be a table.")
    for key in table:
        if key not in KEYS:
            known = ", ".join(KEYS)
            raise SettingsError(f"{path}: unknown key `{key}` in [client]; known are {known}.")
    return table


def _server(value: object) -> str:
    text = str(value).strip().rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment:
        raise SettingsError(
            f"{text!r} is not a server's address: write for example https://up.example."
        )
    if parts.username is not None or parts.password is not None:
        # Not quoted: it holds a password.
        raise SettingsError("The server's address must not hold credentials; use a token.")
    return text


def _token(value: object) -> str:
    token = str(value).strip()
    # Never quoted. Anything else could not be sent as a header.
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError("The token is malformed: it must be one word of printable ASCII.")
    return token


def _connections(value: object) -> int:
    if value is None:
        return DEFAULT_CONNECTIONS
    try:
        number = int(str(value))
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_CONNECTIONS:
        raise SettingsError(f"connections must be a number from 1 to {MAX_CONNECTIONS}.")
    return number
