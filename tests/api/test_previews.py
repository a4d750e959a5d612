"""What a file is, over HTTP: facts and previews come after complete, by a job."""

from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from tests.api.world import SECOND_POOL, refused, unique
from upwell.jobs.runner import Lease
from upwell.model import JobKind

if TYPE_CHECKING:
    from tests.api.world import Api

pytestmark = pytest.mark.slow


def _photo(width: int = 900, height: int = 600) -> bytes:
    """A JPEG of noise, turned by a quarter, taken somewhere."""
    image = Image.effect_noise((width, height), 90).convert("RGB")
    image.putpixel((0, 0), tuple(unique(16)[:3]))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    exif[0x010F] = "Maker"
    exif.get_ifd(0x8825).update({1: "N", 2: (52.0, 31.0, 12.0), 3: "E", 4: (13.0, 24.0, 36.0)})
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90, exif=exif)
    return out.getvalue() + unique()


def _examined(api: Api, data: bytes, **fields: Any) -> dict[str, Any]:
    """The CloudFile after all jobs are done."""
    file = api.store(data, **({"content_type": "image/jpeg"} | fields))
    assert file["file_meta"] == {}
    assert file["has_thumbnail"] is False
    _look_at(api, file["id"])
    answer: dict[str, Any] = api.get(f"/api/files/{file['id']}/info").json()
    return answer


def _look_at(api: Api, file_id: str) -> None:
    """Do the job of this file alone, if there is one."""
    core = api.world.core
    for job in core.catalog.jobs(JobKind.PREVIEW, file_id, 0, 9).items:
        core.runner._works[JobKind.PREVIEW].do(Lease(job, lambda: None, lambda: None))


def _image(api: Api, file_id: str, form: str) -> Image.Image:
    answer = api.get(f"/api/files/{file_id}", params={form: "true"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/webp"
    assert answer.headers["content-disposition"].startswith("inline")
    return Image.open(io.BytesIO(answer.content))


def test_a_photo(api: Api) -> None:
    file = _examined(api, _photo())
    facts = file["file_meta"]
    assert (facts["kind"], facts["width"], facts["height"]) == ("image", 600, 900)
    assert facts["exif"]["make"] == "Maker"
    assert facts["location"]["latitude"] == pytest.approx(52.52, abs=0.01)
    assert facts["thumbhash"]
    assert file["object"]["meta"] == facts
    assert file["has_thumbnail"]
    assert file["has_compression"] == file["object"]["has_compression"]
    thumbnail = _image(api, file["id"], "thumbnail")
    assert max(thumbnail.size) == 320
    assert thumbnail.size[0] < thumbnail.size[1]
    assert not thumbnail.getexif()


def test_what_has_no_preview_says_so(api: Api) -> None:
    file = api.store(unique(), content_type="text/plain")
    assert api.world.core.catalog.jobs(JobKind.PREVIEW, file["id"], 0, 9).total == 0
    for form in ("thumbnail", "preview"):
        answer = api.get(f"/api/files/{file['id']}", params={form: "true"})
        refused(answer, 404, "PREVIEW_NOT_FOUND")


def test_a_file_that_is_no_image_stays_as_it_is(api: Api) -> None:
    data = b"\xff\xd8\xff\xe0 no photo" + unique(5000)
    file = _examined(api, data)
    assert file["has_thumbnail"] is False
    assert api.get(f"/api/files/{file['id']}").content == data


def test_never_of_an_encrypted_file(api: Api) -> None:
    file = _examined(api, _photo(), encrypt_password="p")
    assert file["file_meta"] == {}
    assert not file["has_thumbnail"]


@pytest.mark.parametrize("off", ["no_metadata", "no_optimization"])
def test_a_pool_can_turn_it_off(api: Api, off: str) -> None:
    changed = _set_policy(api, **{off: True, "max_file_size": None})
    try:
        file = _examined(api, _photo(), pool_id=SECOND_POOL)
    finally:
        _set_policy(api, **{off: False, "max_file_size": changed})
    assert bool(file["file_meta"]) == (off == "no_optimization")
    assert file["has_thumbnail"] == (off == "no_metadata")


def _set_policy(api: Api, **changes: Any) -> int | None:
    core, before = api.world.core, []

    def change(pool: Any) -> Any:
        before.append(pool.policy.max_file_size)
        return replace(pool, policy=replace(pool.policy, **changes))

    core.catalog.update_pool(SECOND_POOL, datetime.now(UTC), change)
    core.homes.renew()
    size: int | None = before[0]
    return size


def test_the_images_go_with_the_file(api: Api) -> None:
    file = _examined(api, _photo())
    assert api.delete(f"/api/files/{file['id']}").status_code == 204
    core = api.world.core
    core.sweeper.sweep()
    stored = {key for home in core.homes.values() for key, _ in home.store.list_keys()}
    named = set()
    for blob in core.catalog.blobs():
        named |= {blob.key, blob.thumbnail_key, blob.preview_key}
    tasks = {task.layout.key for task in core.catalog.open_tasks()}
    assert stored <= named | tasks
