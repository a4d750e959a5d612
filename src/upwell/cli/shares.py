"""What ``bundle``, ``share`` and the recycle bin's commands do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from upwell.cli.exits import ExitCode, combined, exit_code_of
from upwell.cli.manage import Span, _file_row, _local_time, listed
from upwell.cli.run import connect, ending, finish
from upwell.cli.secret import ask_secret
from upwell.cli.show import Output, error_record, plain
from upwell.client import BundleFields, ClientError, SettingsError, load_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from upwell.client import Bundle, Client, CloudFile, Given, Link

T = TypeVar("T")

NEVER, NONE = "never", "none"
NOTHING = "-"
PAGE = 100
_FILES = ("ID", "NAME", "SIZE", "TYPE", "WHEN")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a bundle is to be. ``passcode``: whether one is asked for, or taken away."""

    name: str | None
    slug: str | None
    description: str | None
    expires: str | None
    passcode: bool | None

    def fields(self) -> BundleFields:
        """As the server is told; asks for the passcode."""
        ends = ending(self.expires if self.expires != NEVER else None)
        return BundleFields(
            name=self.name,
            slug=self.slug,
            description=None if self.description == NONE else self.description,
            passcode=ask_secret("Passcode", twice=True) if self.passcode else None,
            **ends,
        )

    def unset(self) -> list[str]:
        """What is to be taken away."""
        away = {
            "description": self.description == NONE,
            "passcode": self.passcode is False,
            "expired_at": self.expires == NEVER,
        }
        return [name for name, gone in away.items() if gone]


def create_bundle(given: Given, wanted: Wanted, *, json: bool) -> None:
    """Make a bundle."""

    def action(client: Client, output: Output) -> ExitCode:
        new = wanted.fields()
        bundle = client.bundles.create(
            new.name or "",
            slug=new.slug,
            description=new.description,
            passcode=new.passcode,
            expires_at=new.expires_at,
            expires_in=new.expires_in,
        )
        output.result(bundle.raw, f"{bundle.id}\t{plain(bundle.url)}")
        return ExitCode.DONE

    _run(given, action, json=json)


def list_bundles(given: Given, span: Span, *, json: bool) -> None:
    """Show the caller's bundles."""

    def action(client: Client, output: Output) -> ExitCode:
        found = listed(output, span, client.bundles.list, client.bundles.all)
        columns = ("ID", "NAME", "FILES", "PASSCODE", "UNTIL", "ADDRESS")
        _show(output, columns, found, _bundle_row)
        return ExitCode.DONE

    _run(given, action, json=json)


def show_bundle(given: Given, bundle_id: str, *, json: bool) -> None:
    """Show a bundle and its files."""

    def action(client: Client, output: Output) -> ExitCode:
        bundle = client.bundles.info(bundle_id)
        files = list(client.bundles.all_files(bundle_id))
        if json:
            output.result(bundle.raw | {"files": [file.raw for file in files]}, "")
            return ExitCode.DONE
        for name, value in _facts(bundle):
            output.result({}, f"{name}: {plain(value)}")
        output.table(_FILES, map(_file_row, files))
        return ExitCode.DONE

    _run(given, action, json=json)


def change_bundle(given: Given, bundle_id: str, wanted: Wanted, *, json: bool) -> None:
    """Change a bundle."""

    def action(client: Client, output: Output) -> ExitCode:
        fields, unset = wanted.fields(), wanted.unset()
        if not fields.as_json() and not unset:
            raise SettingsError("Nothing to change; see `upwell bundle set --help`.")
        bundle = client.bundles.change(bundle_id, fields, unset=unset)
        output.result(bundle.raw, f"changed {bundle.id}\t{plain(bundle.url)}")
        return ExitCode.DONE

    _run(given, action, json=json)


def add_files(given: Given, bundle_id: str, ids: Sequence[str], *, json: bool) -> None:
    """Put files into a bundle."""
    _each(given, ids, lambda client, each: client.bundles.add(bundle_id, each), "added", json=json)


def remove_files(given: Given, ids: Sequence[str], *, json: bool) -> None:
    """Take files out of their bundles."""
    _each(given, ids, lambda client, each: client.bundles.remove(each), "removed", json=json)


def delete_bundles(given: Given, ids: Sequence[str], *, json: bool) -> None:
    """Delete bundles with their files."""
    _each(given, ids, lambda client, each: client.bundles.delete(each), "deleted", json=json)


def share(given: Given, file_id: str, expires: str, downloads: int | None, *, json: bool) -> None:
    """Make a signed link and print it."""

    def action(client: Client, output: Output) -> ExitCode:
        link = client.files.share(file_id, **ending(expires), max_downloads=downloads)
        output.result(link.raw, plain(link.url))
        output.note(f"Until {_local_time(link.expires_at)}. Revoke it: upwell unshare {link.id}")
        return ExitCode.DONE

    _run(given, action, json=json)


def list_links(given: Given, file_id: str, *, json: bool) -> None:
    """Show the live links to a file."""

    def action(client: Client, output: Output) -> ExitCode:
        _show(output, ("ID", "UNTIL", "LEFT", "LINK"), client.files.links(file_id), _link_row)
        return ExitCode.DONE

    _run(given, action, json=json)


def unshare(given: Given, ids: Sequence[str], *, json: bool) -> None:
    """Revoke links."""
    _each(given, ids, lambda client, each: client.files.unshare(each), "revoked", json=json)


def list_recycled(given: Given, span: Span, *, json: bool) -> None:
    """Show the recycle bin."""

    def action(client: Client, output: Output) -> ExitCode:
        found = listed(output, span, client.files.recycled, client.files.all_recycled)
        _show(output, _FILES, found, _file_row)
        return ExitCode.DONE

    _run(given, action, json=json)


def restore(given: Given, ids: Sequence[str], *, json: bool) -> None:
    """Take files out of the recycle bin."""
    _each(given, ids, lambda client, each: client.files.restore(each), "restored", json=json)


def _run(given: Given, action: Callable[[Client, Output], ExitCode], *, json: bool) -> None:
    output = Output(json=json)

    def connected() -> ExitCode:
        with connect(load_settings(given)) as client:
            return action(client, output)

    finish(output, connected)


def _each(
    given: Given,
    ids: Sequence[str],
    verb: Callable[[Client, str], CloudFile | None],
    done: str,
    *,
    json: bool,
) -> None:
    def do(client: Client, output: Output, identifier: str) -> ExitCode:
        try:
            verb(client, identifier)
        except ClientError as error:
            record = {"id": identifier, "status": "failed", "error": error_record(error)}
            output.failure(record, identifier, error)
            return exit_code_of(error)
        output.result({"id": identifier, "status": done}, f"{done} {identifier}")
        return ExitCode.DONE

    def action(client: Client, output: Output) -> ExitCode:
        return combined([do(client, output, identifier) for identifier in ids])

    _run(given, action, json=json)


def _show(
    output: Output, columns: Sequence[str], found: Iterable[T], row: Callable[[T], Sequence[str]]
) -> None:
    if output.json:
        for each in found:
            output.result(each.raw, "")  # type: ignore[attr-defined] # all of them have it
    else:
        output.table(columns, map(row, found))


def _bundle_row(bundle: Bundle) -> tuple[str, ...]:
    until = _local_time(bundle.expired_at) if bundle.expired_at else NOTHING
    passcode = "yes" if bundle.has_passcode else "no"
    return (bundle.id, bundle.name, str(bundle.files_count), passcode, until, bundle.url)


def _facts(bundle: Bundle) -> Iterable[tuple[str, str]]:
    yield "Name", bundle.name
    yield "Address", bundle.url
    if description := bundle.raw.get("description"):
        yield "Description", description
    yield "Passcode", "yes" if bundle.has_passcode else "no"
    if bundle.expired_at:
        yield "Until", _local_time(bundle.expired_at)


def _link_row(link: Link) -> tuple[str, ...]:
    left = NOTHING if link.downloads_left is None else f"{link.downloads_left} downloads"
    return (link.id, _local_time(link.expires_at), left, link.url)
