"""``upwell pool …``: the operator's commands for pools. They work on the data folder."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from upwell.cli.say import say, say_json
from upwell.cli.server import Config, Data, _fail, _settings
from upwell.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from upwell.core.pools import Registry
    from upwell.model import Pool

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id.")]
Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="A folder for its bytes alone.", show_default="one in the data folder"
    ),
]
MaxFileSize = Annotated[
    str | None,
    typer.Option(metavar="SIZE|none", help="The largest file it takes: 5GiB, 500M…"),
]
Accept = Annotated[
    list[str] | None,
    typer.Option(metavar="TYPE", help="image/png, image/*…; repeat it. `none` for any type."),
]
Quota = Annotated[
    str | None,
    typer.Option(metavar="SIZE|none", help="What all accounts together may hold in it."),
]
FileExpiryDays = Annotated[
    str | None, typer.Option(metavar="DAYS|none", help="The longest that a file lives in it.")
]
AllowEncryption = Annotated[
    bool | None,
    typer.Option(
        "--allow-encryption/--no-encryption", help="Whether files may be stored encrypted."
    ),
]
AllowAnonymous = Annotated[
    bool | None,
    typer.Option(
        "--allow-anonymous/--no-anonymous", help="Whether anyone may read its files by their ids."
    ),
]
Public = Annotated[
    bool | None,
    typer.Option(
        "--public/--private", help="Whether every account may upload to it, or admins only."
    ),
]
Metadata = Annotated[
    bool | None,
    typer.Option("--metadata/--no-metadata", help="Whether facts about contents are found out."),
]
Optimization = Annotated[
    bool | None,
    typer.Option("--optimization/--no-optimization", help="Whether there are previews."),
]
Recycle = Annotated[
    bool | None,
    typer.Option("--recycle/--no-recycle", help="Whether it has a recycle bin."),
]
Json = Annotated[bool, typer.Option("--json", help="JSON, for scripts.")]

pool_app = typer.Typer(no_args_is_help=True, help="Pools: where bytes live, under which policy.")


@contextmanager
def _registry(data: Path | None, config: Path | None) -> Iterator[Registry]:
    """The pools of a data folder; what they refuse ends the program."""
    settings = _settings(data=data, config=config)
    from upwell import app  # noqa: PLC0415
    from upwell.errors import UpwellError, ValidationFailed  # noqa: PLC0415

    try:
        with app.pool_registry(settings) as registry:
            yield registry
    except ValidationFailed as error:
        _fail(error.message)
    except UpwellError as error:
        _fail(error.message, code=1)


def _find(registry: Registry, name: str) -> Pool:
    from upwell.errors import PoolNotFound  # noqa: PLC0415

    try:
        return registry.find(name)
    except PoolNotFound:
        _fail(f"there is no pool {name}; see `upwell pool list`", code=1)


@pool_app.command("create")
def create(  # noqa: PLR0913 - a parameter is an option
    name: Annotated[str, typer.Argument(metavar="NAME", help="Unique.")],
    path: Folder = None,
    pool_id: Annotated[
        str | None,
        typer.Option("--id", metavar="GUID", help="Of a pool that was there before."),
    ] = None,
    max_file_size: MaxFileSize = None,
    accept: Accept = None,
    quota: Quota = None,
    file_expiry_days: FileExpiryDays = None,
    allow_encryption: AllowEncryption = None,
    allow_anonymous: AllowAnonymous = None,
    public: Public = None,
    metadata: Metadata = None,
    optimization: Optimization = None,
    recycle: Recycle = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Make a pool; its id goes to standard output.

    Without options it takes any file, encrypted ones too, and is for admins only (--private).
    """
    changes = _changes(
        sizes={"max_file_size": max_file_size, "quota": quota},
        accept=accept,
        days=file_expiry_days,
        flags={
            "allow_encryption": allow_encryption,
            "allow_anonymous": allow_anonymous,
            "public_usable": public,
            "no_metadata": _not(metadata),
            "no_optimization": _not(optimization),
            "enable_recycle": recycle,
        },
    )
    folder = None if path is None else str(path.expanduser().absolute())
    known = None if pool_id is None else _guid(pool_id)
    with _registry(data, config) as registry:
        from upwell.core.pools import NewPool  # noqa: PLC0415
        from upwell.model import Policy  # noqa: PLC0415

        say(registry.create(NewPool(name, Policy(**changes), folder, known)).id)


@pool_app.command("list")
def list_(as_json: Json = False, data: Data = None, config: Config = None) -> None:
    """List the pools: name, id, files, bytes held, quota, folder."""
    with _registry(data, config) as registry:
        for pool in registry.all():
            record = _record(registry, pool)
            if as_json:
                say_json(record)
            else:
                keys = ("name", "id", "files", "total_bytes", "quota", "path")
                say("\t".join(_plain(record[key]) for key in keys))


@pool_app.command("show")
def show(name: Name, as_json: Json = False, data: Data = None, config: Config = None) -> None:
    """Show a pool's policy, and what is held in it. Sizes are bytes."""
    with _registry(data, config) as registry:
        record = _record(registry, _find(registry, name))
        if as_json:
            say_json(record)
        else:
            for key, value in record.items():
                say(f"{key}\t{_plain(value)}")


@pool_app.command("set")
def set_(  # noqa: PLR0913 - a parameter is an option
    name: Name,
    new_name: Annotated[str | None, typer.Option("--name", help="Another name.")] = None,
    max_file_size: MaxFileSize = None,
    accept: Accept = None,
    quota: Quota = None,
    file_expiry_days: FileExpiryDays = None,
    allow_encryption: AllowEncryption = None,
    allow_anonymous: AllowAnonymous = None,
    public: Public = None,
    metadata: Metadata = None,
    optimization: Optimization = None,
    recycle: Recycle = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Change a pool's policy, or its name. `none` takes a limit away."""
    changes = _changes(
        sizes={"max_file_size": max_file_size, "quota": quota},
        accept=accept,
        days=file_expiry_days,
        flags={
            "allow_encryption": allow_encryption,
            "allow_anonymous": allow_anonymous,
            "public_usable": public,
            "no_metadata": _not(metadata),
            "no_optimization": _not(optimization),
            "enable_recycle": recycle,
        },
    )
    if not changes and new_name is None:
        _fail("there is nothing to change; see `upwell pool set --help`")
    with _registry(data, config) as registry:
        registry.update(_find(registry, name).id, new_name, changes)


@pool_app.command("remove")
def remove(name: Name, data: Data = None, config: Config = None) -> None:
    """Remove an empty pool."""
    with _registry(data, config) as registry:
        pool = _find(registry, name)
        registry.delete(pool.id)
        if pool.path:
            say(f"Its folder can be deleted: {_plain(pool.path)}")


def _changes(
    *,
    sizes: dict[str, str | None],
    accept: list[str] | None,
    days: str | None,
    flags: dict[str, bool | None],
) -> dict[str, Any]:
    """What was given, as fields of ``Policy``."""
    changes: dict[str, Any] = {key: flag for key, flag in flags.items() if flag is not None}
    for key, text in sizes.items():
        if text is not None:
            changes[key] = _read(_limit, text)
    if accept:
        changes["accept_types"] = () if accept == ["none"] else tuple(accept)
    if days is not None:
        changes["file_expiry"] = _read(_days, days)
    return changes


def _read(reader: Callable[[str], Any], text: str) -> Any:
    from upwell.client import ClientError  # noqa: PLC0415 - keeps `upwell --help` fast

    try:
        return reader(text)
    except ClientError as error:
        _fail(error.message)
    except (ValueError, OverflowError):
        _fail(f"{text!r} is not a number of days")


def _limit(text: str) -> int | None:
    from upwell.client.units import parse_limit  # noqa: PLC0415 - keeps `upwell --help` fast

    return parse_limit(text)


def _days(text: str) -> timedelta | None:
    return None if text == "none" else timedelta(days=float(text))


def _guid(text: str) -> str:
    try:
        return str(UUID(text))
    except ValueError:
        _fail(f"{text!r} is not a GUID")


def _not(flag: bool | None) -> bool | None:
    return None if flag is None else not flag


def _record(registry: Registry, pool: Pool) -> dict[str, Any]:
    policy, held = pool.policy, registry.usage(pool.id)
    life = policy.file_expiry
    return {
        "id": pool.id,
        "name": pool.name,
        "path": pool.path,
        "max_file_size": policy.max_file_size,
        "accept_types": list(policy.accept_types),
        "allow_encryption": policy.allow_encryption,
        "allow_anonymous": policy.allow_anonymous,
        "public_usable": policy.public_usable,
        "no_metadata": policy.no_metadata,
        "no_optimization": policy.no_optimization,
        "enable_recycle": policy.enable_recycle,
        "quota": policy.quota,
        "file_expiry": None if life is None else int(life.total_seconds()),
        "stored_bytes": held.stored_bytes,
        "reserved_bytes": held.reserved_bytes,
        "total_bytes": held.total,
        "files": held.files,
    }


def _plain(value: Any) -> str:
    """A field for a person: text that cannot act on a terminal."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return printable(", ".join(value)) or "-"
    return "-" if value is None else printable(value)
