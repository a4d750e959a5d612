"""The operator's commands: serve, accounts, tokens, login. They work on the data folder."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from upwell.cli.say import say
from upwell.printable import printable

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from upwell.config import Settings
    from upwell.core.accounts import Accounts
    from upwell.model import Account

Data = Annotated[
    Path | None,
    typer.Option(envvar="UPWELL_DATA", help="The data folder.", show_default="data"),
]
Config = Annotated[
    Path | None,
    typer.Option(
        envvar="UPWELL_CONFIG", help="A settings file.", show_default="upwell.toml in DATA"
    ),
]
AccountName = Annotated[str, typer.Option("--account", help="Whose; see `upwell account list`.")]

account_app = typer.Typer(no_args_is_help=True, help="Accounts of a server's data folder.")
token_app = typer.Typer(no_args_is_help=True, help="Tokens that programs log in with.")


def _fail(message: str, code: int = 2) -> NoReturn:
    say(f"upwell: {message}", err=True)
    raise typer.Exit(code)


def _settings(**flags: Any) -> Settings:
    try:
        # The base install has no server; what `config` alone needs comes with other things.
        from upwell import app, config  # noqa: F401, PLC0415
    except ModuleNotFoundError as error:
        _fail(f"this needs the server ({error.name} is missing): pip install 'upwell[server]'")
    try:
        return config.load(flags)
    except config.SettingsError as error:
        _fail(str(error))


class _Accounts:
    """The accounts of a data folder, for the length of a command."""

    def __init__(self, settings: Settings) -> None:
        from upwell import app  # noqa: PLC0415
        from upwell.core.accounts import Accounts  # noqa: PLC0415
        from upwell.errors import Unavailable  # noqa: PLC0415

        try:
            self._catalog = app.open_catalog(settings)
        except Unavailable as error:
            _fail(error.message, code=1)
        self.accounts: Accounts = Accounts(self._catalog, app.utc_now)

    def __enter__(self) -> Accounts:
        return self.accounts

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        from upwell.errors import Unavailable  # noqa: PLC0415

        self._catalog.close()
        if isinstance(error, Unavailable):
            _fail(error.message, code=1)


def serve(
    data: Data = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="0 takes a free one.", show_default="8420")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Server processes on this data folder.", show_default="1")
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="console or json, on standard error.", show_default="console")
    ] = None,
    config: Config = None,
) -> None:
    """Serve uploads from a data folder, making it on first use.

    Prints a link that logs a browser in. Settings come from flags, then the environment
    (UPWELL_DATA, UPWELL_HOST, UPWELL_PORT, UPWELL_WORKERS …), then the settings file.
    """
    settings = _settings(
        data=data, host=host, port=port, workers=workers, log_format=log_format, config=config
    )
    from upwell import app  # noqa: PLC0415

    bound = _bind(settings)
    try:
        with _Accounts(settings) as accounts:
            code = app.first_login(accounts)
        name, number = bound.getsockname()[:2]
        base = settings.public_url or f"http://{_url_host(name)}:{number}"
        say(f"Upwell serves {settings.data.resolve()} at {base}")
        say(f"Log a browser in (once, within a day): {base}/login?code={code}")
        say("A token for programs: upwell token create --account owner")
        sys.stdout.flush()
        raise typer.Exit(app.serve(settings, [bound]))
    finally:
        bound.close()


def _bind(settings: Settings) -> socket.socket:
    import socket  # noqa: PLC0415

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((settings.host, settings.port))
        bound.listen()  # who connects before the server is up waits, and is not refused
    except OSError as error:
        bound.close()
        _fail(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}; "
            "choose another --port",
            code=3,
        )
    bound.set_inheritable(True)
    return bound


def _url_host(address: str) -> str:
    if address in ("0.0.0.0", "::"):  # noqa: S104 - every address: this machine's is one of them
        return "127.0.0.1"
    return f"[{address}]" if ":" in address else address


def login(data: Data = None, config: Config = None) -> None:
    """Print a link that logs a browser in, once, within a day, to the address in the settings."""
    settings = _settings(data=data, config=config)
    from upwell import app  # noqa: PLC0415

    with _Accounts(settings) as accounts:
        code = app.first_login(accounts)
    base = settings.public_url or f"http://{_url_host(settings.host)}:{settings.port}"
    say(f"{base}/login?code={code}")


@account_app.command("create")
def account_create(
    name: Annotated[str, typer.Argument(help="Letters, digits, dots, dashes; unique.")],
    admin: Annotated[bool, typer.Option("--admin", help="May administer the server.")] = False,
    data: Data = None,
    config: Config = None,
) -> None:
    """Create an account; its id goes to standard output."""
    from upwell.errors import AccountExists  # noqa: PLC0415

    if not _usable(name):
        _fail("an account's name is 1 to 64 letters, digits, dots, dashes and underscores")
    with _Accounts(_settings(data=data, config=config)) as accounts:
        try:
            say(accounts.create(name, admin=admin).id)
        except AccountExists as error:
            _fail(error.message, code=1)


def _usable(name: str) -> bool:
    return 0 < len(name) <= 64 and all(c.isalnum() or c in ".-_@" for c in name)


@account_app.command("list")
def account_list(data: Data = None, config: Config = None) -> None:
    """List the accounts: name, admin or not, id."""
    with _Accounts(_settings(data=data, config=config)) as accounts:
        for each in accounts.all():
            say(f"{each.name}\t{'admin' if each.is_admin else '-'}\t{each.id}")


@account_app.command("quota")
def account_quota(
    name: Annotated[str, typer.Argument(help="Whose; see `upwell account list`.")],
    size: Annotated[
        str, typer.Argument(metavar="SIZE|none", help="5GiB, 500M…; none for the server's default.")
    ],
    data: Data = None,
    config: Config = None,
) -> None:
    """Set how many bytes an account may hold, over all pools."""
    from upwell.client import ClientError  # noqa: PLC0415 - keeps `upwell --help` fast
    from upwell.client.units import parse_limit  # noqa: PLC0415

    try:
        quota = parse_limit(size)
    except ClientError as error:
        _fail(error.message)
    with _Accounts(_settings(data=data, config=config)) as accounts:
        accounts.set_quota(_find(accounts, name), quota)


@token_app.command("create")
def token_create(
    account: AccountName,
    name: Annotated[str, typer.Option(help="What it is for.")] = "token",
    scope: Annotated[
        list[str] | None,
        typer.Option(help="files:read, files:write, admin; repeat it. Read and write by default."),
    ] = None,
    expires_in_days: Annotated[int | None, typer.Option(min=1, help="Never, when absent.")] = None,
    data: Data = None,
    config: Config = None,
) -> None:
    """Create a token and print it, alone, on standard output. It is not stored: keep it safe."""
    from datetime import timedelta  # noqa: PLC0415

    with _Accounts(_settings(data=data, config=config)) as accounts:
        owner = _find(accounts, account)
        life = timedelta(days=expires_in_days) if expires_in_days else None
        say(accounts.issue(owner, name, scopes=_scopes(scope), life=life))


def _scopes(names: list[str] | None) -> Iterator[Any]:
    from upwell.core.accounts import DEFAULT_SCOPES  # noqa: PLC0415
    from upwell.model import Scope  # noqa: PLC0415

    for name in names or DEFAULT_SCOPES:
        if name not in set(Scope):
            _fail(f"there is no scope {name}; the scopes are {', '.join(Scope)}")
        yield Scope(name)


@token_app.command("list")
def token_list(account: AccountName, data: Data = None, config: Config = None) -> None:
    """List an account's tokens: id, name, scopes, state. Never their secrets."""
    with _Accounts(_settings(data=data, config=config)) as accounts:
        for each in accounts.tokens(_find(accounts, account)):
            state = "revoked" if each.revoked_at else f"until {each.expires_at or 'revoked'}"
            say(f"{each.id}\t{printable(each.name)}\t{','.join(sorted(each.scopes))}\t{state}")


@token_app.command("revoke")
def token_revoke(
    token_id: Annotated[str, typer.Argument(help="From `upwell token list`.")],
    account: AccountName,
    data: Data = None,
    config: Config = None,
) -> None:
    """Revoke a token: it is worth nothing from now on."""
    with _Accounts(_settings(data=data, config=config)) as accounts:
        if not accounts.revoke(_find(accounts, account), token_id):
            _fail(f"{account} has no live token {token_id}", code=1)


def _find(accounts: Accounts, name: str) -> Account:
    found = accounts.find(name)
    if found is None:
        _fail(f"there is no account {name}; make it: upwell account create {name}", code=1)
    return found
