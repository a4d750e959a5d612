"""The pictures in docs/pictures: `UPWELL_PICTURES=1 pytest tests/browser/test_pictures.py` makes
them anew. Otherwise each page is drawn as for its picture, and the pictures are there."""

from __future__ import annotations

import colorsys
import io
import os
import random
import re
import sqlite3
import struct
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import pytest
from PIL import Image, ImageDraw, ImageFilter
from playwright.sync_api import expect

from tests.browser.people import DESKTOP, LONG, noise, put_into
from tests.harness import BOUNDARY, eventually

if TYPE_CHECKING:
    from tests.browser.people import People, Visit
    from tests.harness import Server

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs/pictures"
ASKED = os.environ.get("UPWELL_PICTURES") == "1"
LARGEST = 150_000  # bytes
PHONE = (390, 844)
Scheme = Literal["light", "dark"]

PHOTOS = {  # by the hue of the sky
    "Sunrise over the lake.jpg": 0.07,
    "Ridge trail.jpg": 0.55,
    "Evening at the coast.jpg": 0.93,
    "Glacier.jpg": 0.60,
    "Larch forest.jpg": 0.13,
    "Hut above the clouds.jpg": 0.72,
}
FILM = "Crossing the pass.mp4"
PAPERS = {"Routes.gpx": "application/gpx+xml", "Packing list.txt": "text/plain"}
DAYS = [datetime(2026, 7, 12, 18, 30, tzinfo=UTC) - timedelta(hours=7 * n) for n in range(9)]


def scenery(hue: float, size: tuple[int, int] = (1200, 800)) -> Image.Image:
    """Hills behind hills, the farther the paler, under a sky with a sun."""
    width, height = size
    chance = random.Random(hue)
    sky = Image.new("RGB", (1, height))
    for row in range(height):
        low = row / height
        sky.putpixel((0, row), _colour(hue + 0.06 * low, 0.45 - 0.3 * low, 0.97))
    picture = sky.resize(size)
    draw = ImageDraw.Draw(picture)
    x, y, r = width * chance.uniform(0.2, 0.8), height * 0.36, height * 0.07
    draw.ellipse((x - r, y - r, x + r, y + r), _colour(hue + 0.04, 0.12, 1.0))
    picture = picture.filter(ImageFilter.GaussianBlur(3))
    draw = ImageDraw.Draw(picture)
    for layer in range(6):
        colour = _colour(hue + 0.5 - 0.05 * layer, 0.16 + 0.08 * layer, 0.86 - 0.13 * layer)
        draw.polygon(_ridge(chance, layer, width, height), colour)
    return picture


def _colour(hue: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1, max(0.0, saturation), max(0.0, value))
    return int(red * 255), int(green * 255), int(blue * 255)


def _ridge(chance: random.Random, layer: int, width: int, height: int) -> list[tuple[float, float]]:
    """The outline of a range: halves of lines are lifted or lowered, ever less."""
    heights, rough = [chance.uniform(-0.5, 0.5), chance.uniform(-0.5, 0.5)], 0.75
    while len(heights) < 130:
        between = [
            (one + two) / 2 + chance.uniform(-rough, rough) / 2 for one, two in pairwise(heights)
        ]
        heights = [x for pair in zip(heights, between, strict=False) for x in pair] + heights[-1:]
        rough *= 0.52
    base = height * (0.45 + 0.1 * layer)
    step = width / (len(heights) - 1)
    tops = [(at * step, base + lift * height * 0.2) for at, lift in enumerate(heights)]
    return [(0, height), *tops, (width, height)]


def _jpeg(picture: Image.Image, hue: float) -> bytes:
    """As large as one from a camera, by what decoders pass over."""
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=92)
    chance = random.Random(hue)
    return out.getvalue() + chance.randbytes(chance.randrange(2_000_000, 5_000_000))


def film() -> bytes:
    """Four seconds of looking around."""
    wide = scenery(0.52, (960, 360))
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream: Any = container.add_stream("h264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for number in range(40):
            shown = wide.crop((number * 8, 0, number * 8 + 640, 360))
            container.mux(stream.encode(av.VideoFrame.from_image(shown)))  # type: ignore[no-untyped-call]
        container.mux(stream.encode(None))
    room = 12_345_678
    return out.getvalue() + struct.pack(">I4s", room, b"free") + bytes(room - 8)


def _store(server: Server, name: str, content: bytes, kind: str) -> str:
    head = f'Content-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: {kind}'
    body = f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()
    form = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    answer = server.api().call("POST", "/api/files/upload/direct", body, form)
    assert answer.status == 200, answer
    return str(answer.json()["id"])


@pytest.fixture
def holiday(server: Server) -> Server:
    """A server with what somebody brought home."""
    kinds = [*PAPERS.items(), (FILM, "video/mp4"), *((name, "image/jpeg") for name in PHOTOS)]
    asked = {
        "name": "Across the Alps",
        "slug": "alps",
        "description": "Five days from hut to hut, July 2026. Take what you like.",
    }
    bundle = server.api().post_json("/api/bundles", asked).json()["id"]
    for name, kind in kinds:
        hue = PHOTOS.get(name)
        content = film() if name == FILM else name.encode() * 400
        file = _store(server, name, _jpeg(scenery(hue), hue) if hue is not None else content, kind)
        if kind != "text/plain":
            put_into(server, bundle, file)
    eventually(lambda: _have_pictures(server), 120, "thumbnails are there")
    _date(server)
    return server


def _have_pictures(server: Server) -> bool:
    shown = [file for file in server.api().files() if file["name"] not in PAPERS]
    return all(file["has_thumbnail"] for file in shown)


def _date(server: Server) -> None:
    """As if it had been uploaded on certain days, so that pictures do not change with every run."""
    files = server.api().files()
    with closing(sqlite3.connect(server.data / "catalog.sqlite", timeout=30)) as catalog, catalog:
        for file, day in zip(files, DAYS, strict=True):
            at = int(day.timestamp() * 1_000_000)
            catalog.execute("UPDATE files SET created_at = ? WHERE id = ?", (at, file["id"]))


def _take(visit: Visit, name: str) -> None:
    """The picture."""
    visit.expect_narrow()
    data = visit.page.screenshot(animations="disabled", caret="hide")
    drawn = Image.open(io.BytesIO(data)).convert("RGB")
    assert len(drawn.getcolors(1 << 22) or []) > 100, "hardly anything was drawn"
    if ASKED:
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"{name}.png").write_bytes(_small(drawn))


def _small(drawn: Image.Image) -> bytes:
    """With all its colours as long as that is small enough."""
    out = io.BytesIO()
    drawn.save(out, "PNG", optimize=True)
    if out.tell() < LARGEST:
        return out.getvalue()
    out = io.BytesIO()
    drawn.quantize(256, dither=Image.Dither.FLOYDSTEINBERG).save(out, "PNG", optimize=True)
    return out.getvalue()


def _loaded(visit: Visit, images: int) -> None:
    """So many images are drawn."""
    drawn = "(all) => all.filter((each) => each.complete && each.naturalWidth).length"

    def are_drawn() -> bool:
        visit.page.wait_for_timeout(50)
        return int(visit.page.locator("img:visible").evaluate_all(drawn)) >= images

    eventually(are_drawn, 60, "the images are drawn")


SIZES: dict[str, tuple[tuple[int, int], int]] = {"desktop": (DESKTOP, 1), "phone": (PHONE, 2)}


@pytest.mark.own_server
@pytest.mark.timeout(600)
def test_pictures(people: People, holiday: Server, tmp_path: Path) -> None:
    video = noise(tmp_path / "Avalanche from the hut.mov", LONG)
    fresh = tmp_path / "Summit.jpg"
    fresh.write_bytes(_jpeg(scenery(0.03), 0.03))
    for place, (size, scale) in SIZES.items():
        for scheme in ("light", "dark"):
            look: dict[str, Any] = {"size": size, "scheme": scheme, "device_scale_factor": scale}
            end = f"{place}-{scheme}"
            visit = people.visit(**look)
            expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
            expect(visit.row("Glacier.jpg")).to_be_visible()
            _loaded(visit, 3)
            _take(visit, f"page-{end}")
            _upload(visit, fresh, video)
            _take(visit, f"uploading-{end}")
            visit.page.get_by_role("button", name="Cancel all").click()
            expect(visit.transfer(video.name)).to_have_count(0)
            stranger = people.visit("/b/alps", logged_in=False, **look)
            _loaded(stranger, 4)
            _take(stranger, f"bundle-{end}")
            _forget(holiday, fresh.name)


def _upload(visit: Visit, fresh: Path, video: Path) -> None:
    """One is there, another is on its way."""
    visit.choose(fresh)
    expect(visit.transfer(fresh.name).get_by_text("Uploaded")).to_have_count(1)
    visit.slow_down(LONG // 8)
    visit.choose(video)
    told = re.compile(r"[2-6]\d\.\d MB of 62\.9 MB · .*/s · .* left")
    expect(visit.transfer(video.name)).to_contain_text(told)


def _forget(server: Server, name: str) -> None:
    """What was uploaded for a picture is not in the next one."""
    api = server.api()
    for file in api.files():
        if file["name"] == name:
            assert api.call("DELETE", f"/api/files/{file['id']}").status == 204
    eventually(lambda: api.tasks() == [], 60, "what was cancelled is gone")


def test_the_pictures_are_there() -> None:
    names = {
        f"{page}-{place}-{scheme}.png"
        for page in ("page", "uploading", "bundle")
        for place in SIZES
        for scheme in ("light", "dark")
    }
    assert {each.name for each in PICTURES.iterdir()} == names
    for name in names:
        path = PICTURES / name
        with Image.open(path) as picture:
            picture.load()
            assert picture.format == "PNG"
        assert path.stat().st_size < LARGEST, name
    shown = re.search(r"!\[.+\]\(docs/pictures/([a-z-]+\.png)\)", (ROOT / "README.md").read_text())
    assert shown, "README.md shows no picture"
    assert shown[1] in names
