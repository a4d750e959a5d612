"""Compares Upwell with other upload servers on this machine, all in one run.

Every contender gets the same bytes from the same cheap client, stores them on the same disk,
and is checked for having stored exactly them. Start it with bench/run.sh, which builds what
it needs; results go to bench/results/latest.md and latest.json (of --quick and --before: to
bench/build/results).
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
from pathlib import Path

from . import contenders, report, tables
from .measure import BENCH, BUILD, GIB, MIB, BenchError, progress

EXAMPLES = """\
examples:
  bench/run.sh                                the whole comparison; takes a while
  bench/run.sh --quick                        a smoke run: 256 MiB, 2 rounds
  bench/run.sh --tables upload                only the main table
  bench/run.sh --only c-floor,upwell,nginx    only these contenders
  bench/run.sh --tables upload --only c-floor,upwell --before HEAD~20
                                              has the hot path got slower since?
  bench/run.sh --dir /mnt/disk/tmp            store to another disk (not to a RAM disk)

tables:      {tables}
contenders:  {contenders}

Sizes take a unit: 512MiB, 2GiB. Leave the machine alone while it runs: on a busy one the
columns of ratios stay more trustworthy than those of MB/s.
"""

QUICK = {
    "size": 256 * MIB,
    "rounds": 2,
    "complete_size": 256 * MIB,
    "memory_size": 512 * MIB,
    "download_size": 256 * MIB,
    "requests": 300,
}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)\s*(MiB|GiB|M|G)", text.strip(), re.IGNORECASE)
    if not match or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 256MiB or 2GiB")
    return int(match[1]) * (GIB if match[2].upper().startswith("G") else MIB)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _names(known: list[str]) -> type:
    class Names(list[str]):
        """Comma-separated names, each of them known."""

        def __init__(self, text: str) -> None:
            super().__init__(text.split(","))
            for name in self:
                if name not in known:
                    raise argparse.ArgumentTypeError(
                        f"{name!r} is unknown; choose from {', '.join(known)}"
                    )

    return Names


def _parser() -> argparse.ArgumentParser:
    servers = [kind.name for kind in contenders.ALL]
    parser = argparse.ArgumentParser(
        prog="bench/run.sh",
        description=__doc__,
        epilog=EXAMPLES.format(tables=" ".join(tables.ALL), contenders=" ".join(servers)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--size", type=_size, default=2 * GIB, help="bytes per upload (default 2GiB)")
    add("--rounds", type=_positive, default=5, help="shuffled rounds (default 5)")
    add(
        "--only", type=_names(servers), default=servers, metavar="NAME,...", help="these contenders"
    )
    add(
        "--tables",
        type=_names([*tables.ALL]),
        default=[*tables.ALL],
        metavar="NAME,...",
        help="these tables",
    )
    add("--before", metavar="COMMIT", help="beside Upwell as it was at this commit")
    add("--quick", action="store_true", help="256 MiB, 2 rounds: does it work? not: how fast")
    add("--dir", type=Path, default=BUILD, help="store below this folder (default bench/build)")
    add("--complete-size", type=_size, default=4 * GIB, help="for the table complete (4GiB)")
    add("--download-size", type=_size, default=GIB, help="for the table download (1GiB)")
    add("--memory-size", type=_size, default=20 * GIB, help="for the table memory (20GiB)")
    add("--requests", type=_positive, default=3000, help="files per run of small (3000)")
    return parser


def _settings(args: argparse.Namespace, folder: Path) -> tables.Settings:
    return tables.Settings(
        folder=folder,
        size=args.size,
        rounds=args.rounds,
        complete_size=args.complete_size,
        memory_size=args.memory_size,
        download_size=args.download_size,
        requests=args.requests,
        contenders=_contenders(args),
    )


def _contenders(args: argparse.Namespace) -> list[type[contenders.Contender]]:
    kinds = [kind for kind in contenders.ALL if kind.name in args.only]
    if args.before:
        contenders.UpwellBefore.install(args.before)
        kinds.append(contenders.UpwellBefore)
    return kinds


def _run(args: argparse.Namespace, folder: Path) -> None:
    settings = _settings(args, folder)
    beside = args.quick or args.before  # neither is the comparison that it would replace
    results = BUILD / "results" if beside else report.RESULTS
    facts = report.machine(folder, shlex.join(["bench/run.sh", *sys.argv[1:]]))
    versions = {kind.name: kind().version() for kind in settings.contenders}
    made: list[report.Table] = []
    for name in args.tables:
        table = tables.ALL[name](settings)
        if table.rows:
            made.append(table)
            print(table.markdown(), flush=True)
            report.write(
                results, facts, versions, made
            )  # after each: a later failure loses nothing
    progress(f"wrote latest.md and latest.json in {results.relative_to(BENCH.parent)}")


def main() -> int:
    """Run what the command line asks for."""
    parser = _parser()
    if parser.parse_args().quick:
        parser.set_defaults(**QUICK)  # what is asked for beside it still holds
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(prefix="data-", dir=args.dir) as folder:
            _run(args, Path(folder))
    except BenchError as error:
        print(f"\nbench: FAILED: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
