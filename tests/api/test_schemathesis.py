"""The OpenAPI description against the server, by Schemathesis: every phase and check.

A number of examples ends it, not time: a slow machine asks the same. The environment makes
another run, and a longer one that goes on until its time is up::

    export UPWELL_FUZZ_SECONDS=7200 UPWELL_FUZZ_SEED=$RANDOM
    pytest tests/api/test_schemathesis.py
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.api.world import Api, World, serving
from upwell.model import DEFAULT_POOL_ID, Scope

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = os.environ.get("UPWELL_FUZZ_EXAMPLES", "100")
SECONDS = float(os.environ.get("UPWELL_FUZZ_SECONDS", "0"))  # for all parts together
SEED = os.environ.get("UPWELL_FUZZ_SEED", "1")
QUOTA = 1 << 30  # bytes
CONFIG = Path(__file__).with_name("schemathesis.toml")


@dataclass(frozen=True)
class Part:
    """Routes that are fuzzed together, by whom, and which part of the time that takes."""

    routes: str
    who: str
    share: float
    examples: str = EXAMPLES


PARTS = {
    "uploads": Part("^/api/files/upload/", "alice", 0.2),
    # Direct uploads make the files.
    "files": Part("^/api/(files/(?!upload/(?!direct))|bundles(?!/public))", "alice", 0.3),
    "pools": Part("^/api/(pools|billing)", "boss", 0.15),
    "events": Part("^(/api/(events|webhooks|accounts)|/logout)", "alice", 0.1),
    "strangers": Part("^(/api/bundles/public|/s/|/health|/api/files/{file_id}$)", "", 0.15),
    "aliases": Part("^/drive/", "alice", 0.1, "20"),  # the same routes again
}


@pytest.fixture
def fuzzed(tmp_path: Path) -> Iterator[World]:
    """A server of its own: pools and quotas that are made up would be in the way of others. Its
    accounts cannot reserve the whole disk."""
    with serving(tmp_path / "data") as made:
        made.secrets["boss"] = made.token("boss", scopes=frozenset(Scope))
        for name in ("alice", "boss"):
            account = made.core.accounts.find(name)
            assert account is not None
            made.core.accounts.set_quota(account, QUOTA)
        yield made


def known(world: World) -> dict[str, list[str]]:
    """Values that lead somewhere, for parameters whose values nobody can guess."""
    with Api(world, None, world.secrets["alice"]) as alice:
        plain, sealed = alice.direct(), alice.direct(encrypt_password="password")
        fields = ({"slug": "open"}, {"slug": "locked", "passcode": "passcode"})
        bundles = [alice.post("/api/bundles", json={"name": "a"} | each).json() for each in fields]
        for file, bundle in ((plain, bundles[0]), (sealed, bundles[1])):
            alice.put(f"/api/files/{file['id']}/bundle", json={"bundle_id": bundle["id"]})
        links = [
            alice.post(f"/api/files/{plain['id']}/links", json=each).json()
            for each in ({}, {"max_downloads": 1_000})
        ]
    return {
        "path.slug": ["open", "locked"],
        "path.file_id": [plain["id"], sealed["id"]],
        "path.bundle_id": [each["id"] for each in bundles],
        "path.pool_id": [DEFAULT_POOL_ID],
        "path.link_id": [each["id"] for each in links],
        "query.signature": [each["url"].rpartition("=")[2] for each in links],
        "query.passcode": ["passcode"],
        "header.X-Bundle-Passcode": ["passcode"],
        "header.X-Encrypt-Password": ["password"],
        "body.pool_id": [DEFAULT_POOL_ID],
        "body.bundle_id": [each["id"] for each in bundles],
    }


def config(world: World, place: Path) -> Path:
    """The configuration, with every other value of those parameters taken from the known."""
    values = {name.replace(".", "-"): found for name, found in known(world).items()}
    lines = [
        CONFIG.read_text(),
        *(f"[dictionaries.{name}]\nvalues = {json.dumps(found)}" for name, found in values.items()),
        "[parameters]",
        *(
            f'"{name.replace("-", ".", 1)}" = {{ dictionary = "{name}", probability = 0.5 }}'
            for name in values
        ),
    ]
    place.write_text("\n".join(lines))
    return place


@pytest.mark.slow
@pytest.mark.timeout(0 if SECONDS else 1200)
@pytest.mark.parametrize("name", PARTS)
def test_the_description_is_true(fuzzed: World, name: str, tmp_path: Path) -> None:
    part = PARTS[name]
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        f"--config-file={config(fuzzed, tmp_path / 'schemathesis.toml')}",
        "run",
        f"{fuzzed.url}/openapi.json",
        f"--include-path-regex={part.routes}",
        "--phases=examples,coverage,fuzzing,stateful",
        "--checks=all",
        "--request-timeout=10",
        f"--max-examples={part.examples}",
        f"--seed={SEED}",
        "--generation-database=none",
        "--suppress-health-check=all",
        "--no-color",
    ]
    if SECONDS:
        command.append(f"--max-time={max(1, round(SECONDS * part.share))}")
    if part.who:
        command.append(f"--header=Authorization: Bearer {fuzzed.secrets[part.who]}")
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr


def test_every_route_is_in_a_part(world: World) -> None:
    assert sum(part.share for part in PARTS.values()) == pytest.approx(1)
    for path in world.description["paths"]:
        assert any(re.search(part.routes, path) for part in PARTS.values()), path
