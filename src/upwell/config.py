"""Settings of the server, read once and passed down.

A flag wins over the environment (``UPWELL_DATA`` …), the environment over the TOML file
(``--config``, ``UPWELL_CONFIG``, or ``upwell.toml`` in the data folder), the file over the
defaults below.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    IPvAnyNetwork,
    ValidationError,
)

_ENVIRONMENT = (
    "data",
    "host",
    "port",
    "workers",
    "log_format",
    "public_url",
    "trusted_proxies",
    "cors_origins",
)
_ORIGIN = re.compile(r"https?://(\[[0-9a-fA-F:.]+\]|[^\s/?#@:\[\]]+)(:\d{1,5})?")


class SettingsError(Exception):
    """The settings cannot be used; the message names the key and what is wrong."""


def _listed(value: object) -> object:
    """A variable of the environment holds a list with commas."""
    if not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _origin(value: str) -> str:
    """An origin as browsers send it (RFC 6454 §6.2): no path, no slash at the end."""
    if value != "*" and not _ORIGIN.fullmatch(value):
        message = "write an origin as https://app.example or https://app.example:8443, or *"
        raise ValueError(message)
    return value.lower()


class Settings(BaseModel):
    """Everything an operator can set. Sizes take units (``5MiB``), times are seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path = Path("data")
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8420
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    public_url: Annotated[str, AfterValidator(lambda url: url.rstrip("/"))] | None = None
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(_listed)] = ()
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(_origin)], ...], BeforeValidator(_listed)
    ] = ()
    log_format: Annotated[str, Field(pattern="^(console|json)$")] = "console"
    task_idle: timedelta = timedelta(days=7)
    direct_max_size: ByteSize = ByteSize(16 << 20)
    min_free_space: ByteSize = ByteSize(32 << 20)
    sweep_interval: timedelta = timedelta(minutes=1)
    snapshot_interval: timedelta = timedelta(minutes=10)
    account_quota: ByteSize | None = None
    account_open_uploads: Annotated[int, Field(ge=0)] = 200  # 0 is no limit, here and below
    account_unsent_bytes: ByteSize = ByteSize(32 << 30)
    pool_roots: tuple[Path, ...] = ()
    recycle_grace: timedelta = timedelta(days=30)
    event_retention: timedelta = timedelta(days=7)
    streams_per_account: Annotated[int, Field(ge=1)] = 64
    downloads_per_address: Annotated[int, Field(ge=1)] = 64
    min_download_rate: ByteSize = ByteSize(1 << 10)
    webhook_private_networks: bool = False


def load(flags: dict[str, Any], environ: dict[str, str] | None = None) -> Settings:
    """Settings from flags (``None`` is not given), environment and file.

    Raises SettingsError.
    """
    environ = dict(os.environ) if environ is None else environ
    given = {key: value for key, value in flags.items() if value is not None}
    config = given.pop("config", None) or environ.get("UPWELL_CONFIG")
    named = {
        key: environ[f"UPWELL_{key.upper()}"]
        for key in _ENVIRONMENT
        if f"UPWELL_{key.upper()}" in environ
    }
    above = named | given
    path = Path(config) if config else Path(above.get("data", "data")) / "upwell.toml"
    values = _from_file(path, required=config is not None) | above
    try:
        return Settings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = f"setting {key}: {first['msg']}"
        raise SettingsError(message) from None


def _from_file(path: Path, *, required: bool) -> dict[str, Any]:
    """The ``[server]`` table of a TOML file."""
    try:
        tables = tomllib.loads(path.read_text())
    except FileNotFoundError:
        if required:
            message = f"there is no settings file {path}"
            raise SettingsError(message) from None
        return {}
    except (OSError, tomllib.TOMLDecodeError) as error:
        message = f"cannot read {path}: {error}"
        raise SettingsError(message) from None
    if set(tables) - {"server"}:
        message = f"{path}: settings stand in [server]; pools are made with `upwell pool create`"
        raise SettingsError(message)
    return dict(tables.get("server", {}))
