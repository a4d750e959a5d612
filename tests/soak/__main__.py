"""Cut the power of a working server, or kill it, again and again; see CONTRIBUTING.md.

    python -m tests.soak --cuts 20 --seed 7 --seconds 600

Prints a line for each campaign. Exits 1 when anything that was acknowledged is lost, or anything
is not what was sent; 0 otherwise, also when this machine cannot do a campaign, which it says.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness import Server
from tests.soak.campaign import Campaign, ForgetfulServer
from tests.soak.faults import Impossible, Killed, power_loss

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.soak.faults import Place

PLACES = ("kill", "ext4", "xfs")


def main() -> int:
    options = _options()
    print(f"seed {options.seed}; the same seed makes the same choices", flush=True)
    share = options.seconds / (max(1, len(options.place)) * len(options.workers))
    bad = False
    for name in options.place:
        try:
            bad |= _all_of(name, options, share)
        except Impossible as error:
            print(f"{name}: skipped. {error}", flush=True)
    return 1 if bad else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--place", choices=PLACES, nargs="+", default=list(PLACES))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 3])
    parser.add_argument("--cuts", type=int, default=25, help="of each place and number of workers")
    parser.add_argument("--seconds", type=float, default=1200, help="for everything together")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    parser.add_argument("--work", type=Path, help="a folder for images and data folders")
    parser.add_argument(
        "--forgetful",
        action="store_true",
        help="serve without syncing files, and fail unless the campaign finds the loss",
    )
    options = parser.parse_args()
    if options.forgetful:  # a kill loses nothing that was written, synced or not
        options.place = [each for each in options.place if each != "kill"]
    return options


def _all_of(name: str, options: argparse.Namespace, share: float) -> bool:
    """The campaigns of a place; whether one of them found something."""
    bad = False
    for workers in options.workers:
        folder = Path(tempfile.mkdtemp(prefix=f"soak-{name}-", dir=options.work))
        with _place(name, folder) as place:
            server: type[Server] = ForgetfulServer if options.forgetful else Server
            campaign = Campaign(place, workers, options.seed, server_type=server)
            found = _run(campaign, options.cuts, share, stop_early=options.forgetful)
        bad |= found != options.forgetful
        if options.forgetful:
            print("  the missing syncs were noticed" if found else "  NOT NOTICED", flush=True)
        if found and not options.forgetful:
            print(f"  what was found, and the server's log, are in {folder}", flush=True)
        else:
            shutil.rmtree(folder)
    return bad


def _run(campaign: Campaign, cuts: int, seconds: float, *, stop_early: bool) -> bool:
    """Run it and tell what came of it; whether something is lost or wrong."""
    began = time.monotonic()
    for found in campaign.run(cuts, began + seconds):
        for text in [*(f"LOST {each}" for each in found.lost), *found.wrong][:20]:
            print(f"  after cut {campaign.cuts}: {text}", flush=True)
        if stop_early and not found.well:
            break
    verdict = campaign.verdict
    print(
        f"{campaign.place.name}, {campaign.workers} workers: {campaign.cuts} cuts, "
        f"{campaign.acknowledged} requests acknowledged, {verdict.checked} acknowledgements "
        f"checked, {len(verdict.lost)} lost, {len(verdict.wrong)} wrong "
        f"({time.monotonic() - began:.0f} s)",
        flush=True,
    )
    return not verdict.well


@contextmanager
def _place(name: str, folder: Path) -> Iterator[Place]:
    if name == "kill":
        yield Killed(folder)
        return
    with power_loss(folder, name) as place:
        yield place


if __name__ == "__main__":
    sys.exit(main())
