"""Dropping files on the page: what a person sees of it, and what the server has then."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.browser.people import LONG, log_in, noise, photo, set_policy
from tests.harness import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser.people import People
    from tests.harness import Server

pytestmark = pytest.mark.slow

MIB = 1 << 20
LARGE = 300 * MIB

# The names of the files that the browser holds on to.
_KEPT = """async () => {
    const held = new Promise((resolve) => navigator.serviceWorker.addEventListener(
        "message", ({ data }) => resolve(Object.keys(data.files)), { once: true }));
    navigator.serviceWorker.controller.postMessage({ type: "uppy/GET_FILES", store: "upwell" });
    const opened = indexedDB.open("uppy-blobs");
    await new Promise((resolve) => { opened.onsuccess = resolve; });
    const all = opened.result.transaction("files").objectStore("files").getAllKeys();
    await new Promise((resolve) => { all.onsuccess = resolve; });
    return [...await held, ...all.result];
}"""


def test_files_arrive_as_they_are(people: People, server: Server, tmp_path: Path) -> None:
    contents = [photo(tmp_path / "Lake.png"), noise(tmp_path / "film.bin", 7 * MIB)]
    visit = people.visit()
    expect(visit.page.get_by_text("No files yet.")).to_be_visible()
    visit.choose(*contents)
    visit.expect_uploaded(2)
    expect(visit.row("Lake.png")).to_be_visible()
    expect(visit.row("film.bin")).to_contain_text("7.3 MB")
    expect(visit.row("Lake.png").locator("img")).to_be_visible()
    api = server.api()
    for file in api.files():
        assert api.download(file["id"]) == (tmp_path / file["name"]).read_bytes()


def test_a_folder_with_folders(people: People, server: Server, tmp_path: Path) -> None:
    for name in ("one.txt", "deep/two.txt", "deep/er/three.txt"):
        noise(tmp_path / "folder" / name, 1000)
    visit = people.visit()
    visit.choose_folder(tmp_path / "folder")
    visit.expect_uploaded(3)
    assert {file["name"] for file in server.api().files()} == {"one.txt", "two.txt", "three.txt"}
    expect(visit.transfer("three.txt")).to_contain_text("folder / deep / er")


def test_dropped_anywhere(people: People, tmp_path: Path) -> None:
    """Beside the drop area too; the browser would else leave the page for the file."""
    visit = people.visit()
    expect(visit.page.get_by_role("button", name="Choose files")).to_be_visible()
    visit.page.evaluate(
        """() => {
            const transfer = new DataTransfer();
            transfer.items.add(new File(["dropped"], "dropped.txt"));
            const heading = document.querySelector("#files-title");
            const event = { dataTransfer: transfer, bubbles: true, cancelable: true };
            heading.dispatchEvent(new DragEvent("drop", event));
        }"""
    )
    visit.expect_uploaded(1)
    expect(visit.row("dropped.txt")).to_be_visible()


def test_content_that_is_here_already_is_said_to_be(people: People, tmp_path: Path) -> None:
    for size in (1000, 3 * MIB):  # those that are sent at once, and those that are asked for first
        file = noise(tmp_path / f"{size}.bin", size)
        visit = people.visit()
        visit.choose(file)
        visit.expect_uploaded(1)
        expect(visit.row(file.name)).to_be_visible()
        expect(visit.transfer(file.name)).not_to_contain_text("Already here")
        visit.choose(file)
        expect(visit.transfer(file.name)).to_contain_text("Already here")
        visit.page.close()


def test_pause_resume_and_cancel(people: People, server: Server, tmp_path: Path) -> None:
    stays, goes = noise(tmp_path / "stays.bin", LONG), noise(tmp_path / "goes.bin", LONG)
    visit = people.visit()
    visit.slow_down(LONG // 20)
    visit.choose(stays, goes)
    expect(visit.transfer("stays.bin")).to_contain_text(re.compile(r"B of .*B/s · .* left"))
    visit.page.get_by_role("button", name="Pause stays.bin").click()
    expect(visit.transfer("stays.bin")).to_contain_text("Paused")
    visit.page.get_by_role("button", name="Cancel goes.bin").click()
    eventually(
        lambda: [task["file_name"] for task in server.api().tasks()] == ["stays.bin"],
        30,
        "only the paused upload is left on the server",
    )
    visit.slow_down(0)
    visit.page.get_by_role("button", name="Resume stays.bin").click()
    visit.expect_uploaded(1)
    api = server.api()
    assert [api.download(file["id"]) for file in api.files()] == [stays.read_bytes()]


def test_what_is_done_goes_to_the_end_of_the_list(people: People, tmp_path: Path) -> None:
    visit = people.visit()
    visit.slow_down(LONG // 20)
    visit.choose(noise(tmp_path / "note.txt", 100), noise(tmp_path / "film.bin", LONG))
    expect(visit.row("note.txt")).to_be_visible()
    names = visit.page.get_by_role("list", name="Uploads", exact=True).locator(".name")
    expect(names).to_have_text(["film.bin", "note.txt"])
    visit.slow_down(0)
    visit.expect_uploaded(2)
    expect(names).to_have_text(["note.txt", "film.bin"])


def test_goes_on_after_a_reload(people: People, server: Server, tmp_path: Path) -> None:
    file = noise(tmp_path / "film.bin", LONG)
    visit = people.visit()
    visit.slow_down(LONG // 10)
    visit.choose(file)
    visit.wait_until_half_way()
    (task,) = server.api().tasks()
    visit.page.reload()
    expect(visit.transfer("film.bin")).to_be_visible()
    visit.slow_down(0)
    visit.expect_uploaded(1)
    (stored,) = server.api().files()
    assert server.api().resume(task["task_id"])["file_id"] == stored["id"], "it was another upload"
    assert server.api().download(stored["id"]) == file.read_bytes()


@pytest.mark.parametrize("ended", [False, True], ids=["held", "worker-ended-meanwhile"])
def test_a_file_too_large_to_be_copied_goes_on_after_a_reload(
    people: People, server: Server, tmp_path: Path, *, ended: bool
) -> None:
    """By itself, and without sending again what was acknowledged.

    Chromium ends a service worker that has had nothing to do for half a minute, and forgets what
    it held.
    """
    file = _sparse(tmp_path / "film.bin", LARGE)
    visit = people.visit()
    visit.slow_down(LARGE // 30)
    visit.choose(file)
    visit.wait_until_half_way()
    (task,) = server.api().tasks()
    acknowledged = set(server.api().uploaded(task["task_id"]))
    if ended:
        visit.end_workers()
    sent: list[str] = []
    visit.page.on("request", lambda request: sent.append(request.url))
    visit.page.reload()
    expect(visit.transfer("film.bin")).to_be_visible()
    visit.slow_down(0)
    visit.expect_uploaded(1)
    numbers = {int(url.rsplit("/", 1)[1]) for url in sent if "/upload/chunk/" in url}
    assert numbers, "everything was there before the reload"
    assert not numbers & acknowledged
    (stored,) = server.api().files()
    assert server.api().resume(task["task_id"])["file_id"] == stored["id"], "it was another upload"
    assert stored["hash"] == hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.own_server  # others share their server's session
def test_who_logs_out_leaves_no_file_behind(people: People, server: Server, tmp_path: Path) -> None:
    """What the server has of it waits for who logs in again, and for the file."""
    visit = people.visit()
    visit.slow_down(LONG // 10)
    visit.choose(noise(tmp_path / "film.bin", LONG))
    visit.wait_until_half_way()
    visit.page.get_by_role("button", name="Log out").click()
    expect(visit.page.get_by_role("heading", name="Welcome to Upwell")).to_be_visible()
    visit.allow("401")
    eventually(lambda: visit.page.evaluate(_KEPT) == [], 30, "the browser holds on to no file")
    log_in(visit.page, server)
    waiting = visit.page.get_by_role("list", name="Unfinished uploads")
    expect(waiting.get_by_text("film.bin")).to_be_visible()
    expect(visit.transfer("film.bin")).to_have_count(0)


def test_goes_on_when_the_file_is_chosen_again(
    people: People, server: Server, tmp_path: Path
) -> None:
    """In another browser, which knows nothing: what the server has is enough."""
    file = noise(tmp_path / "film.bin", LONG)
    visit = people.visit()
    visit.slow_down(LONG // 10)
    visit.choose(file)
    visit.wait_until_half_way()
    visit.page.close()
    (task,) = server.api().tasks()
    again = people.visit()
    waiting = again.page.get_by_role("list", name="Unfinished uploads")
    expect(waiting.get_by_text("film.bin")).to_be_visible()
    again.choose(file)
    again.expect_uploaded(1)
    expect(waiting).to_have_count(0)
    assert server.api().resume(task["task_id"])["status"] == "completed"


def test_a_second_tab_does_not_send_it_again(
    people: People, server: Server, tmp_path: Path
) -> None:
    file = noise(tmp_path / "film.bin", LONG)
    visit = people.visit()
    visit.slow_down(LONG // 10)
    visit.choose(file)
    visit.wait_until_half_way()
    other = people.visit(profile=visit)
    waiting = other.page.get_by_role("list", name="Unfinished uploads")
    expect(waiting.get_by_text("perhaps still being sent from elsewhere")).to_be_visible()
    expect(other.transfer("film.bin")).to_have_count(0)
    visit.slow_down(0)
    visit.expect_uploaded(1)
    expect(waiting).to_have_count(0)
    expect(other.row("film.bin")).to_be_visible()


def test_an_unfinished_upload_can_be_given_up(people: People, server: Server) -> None:
    server.api().create(10 * MIB, MIB, file_name="old.bin")
    visit = people.visit()
    visit.page.get_by_role("button", name="Cancel old.bin").click()
    expect(visit.page.get_by_text("Waiting for the file")).to_have_count(0)
    assert server.api().tasks() == []


def test_encrypted_with_a_password(people: People, server: Server, tmp_path: Path) -> None:
    file = noise(tmp_path / "diary.bin", 3 * MIB)
    visit = people.visit()
    visit.page.get_by_role("switch", name="Encrypt with a password").check()
    visit.choose(file)
    expect(
        visit.page.get_by_text("Choose a password for the encrypted files first")
    ).to_be_visible()
    visit.page.get_by_label("Password", exact=True).fill("crêpe")
    visit.page.get_by_label("Password again").fill("crepe")
    expect(visit.page.get_by_text("The two passwords differ")).to_be_visible()
    visit.page.get_by_label("Password again").fill("crêpe")
    visit.choose(file)
    visit.expect_uploaded(1)
    (stored,) = server.api().files()
    assert stored["is_encrypted"]
    expect(visit.row("diary.bin")).to_contain_text("Encrypted")

    visit.allow("403")
    visit.page.get_by_role("button", name="Download diary.bin").click()
    visit.dialog().get_by_label("Password").fill("wrong")
    visit.dialog().get_by_role("button", name="Download").click()
    expect(visit.dialog().locator(".problem")).to_be_visible()
    visit.expect_accessible()
    visit.dialog().get_by_label("Password").fill("crêpe")
    with visit.page.expect_download() as download:
        visit.dialog().get_by_role("button", name="Download").click()
    assert download.value.path().read_bytes() == file.read_bytes()
    assert download.value.suggested_filename == "diary.bin"


def test_an_encrypted_upload_asks_again_after_a_reload(
    people: People, server: Server, tmp_path: Path
) -> None:
    """The password is never kept, and nothing is sent in clear instead."""
    file = noise(tmp_path / "diary.bin", LONG)
    visit = people.visit()
    visit.slow_down(LONG // 10)
    visit.page.get_by_role("switch", name="Encrypt with a password").check()
    visit.page.get_by_label("Password", exact=True).fill("secret")
    visit.page.get_by_label("Password again").fill("secret")
    visit.choose(file)
    visit.wait_until_half_way()
    visit.allow("Give its password again")
    visit.page.reload()
    expect(visit.transfer("diary.bin")).to_contain_text("Give its password again")
    visit.slow_down(0)
    visit.page.get_by_role("button", name="Password of diary.bin").click()
    visit.dialog().get_by_label("Password").fill("secret")
    visit.dialog().get_by_role("button", name="Go on").click()
    visit.expect_uploaded(1)
    (stored,) = server.api().files()
    assert stored["is_encrypted"]


@pytest.mark.own_server
def test_a_refusal_in_words(people: People, server: Server, tmp_path: Path) -> None:
    """What the server says, with a way to go on."""
    set_policy(server, "--max-file-size", "2M")
    visit = people.visit()
    visit.allow("413|large.bin|larger|at most")
    visit.choose(noise(tmp_path / "large.bin", 3 * MIB))
    expect(visit.transfer("large.bin")).to_contain_text("Too large: at most 2.1 MB")
    expect(visit.page.get_by_role("button", name="Retry large.bin")).to_be_visible()
    visit.expect_accessible()
    visit.page.get_by_role("button", name="Cancel large.bin").click()
    expect(visit.transfer("large.bin")).to_have_count(0)


def test_into_a_bundle_for_a_while(people: People, server: Server, tmp_path: Path) -> None:
    made = server.api().post_json("/api/bundles", {"name": "Summer"})
    visit = people.visit()
    visit.page.get_by_label("Put into").select_option("Bundle: Summer")
    visit.page.get_by_label("Keep", exact=True).select_option("For 7 days")
    visit.choose(photo(tmp_path / "Lake.png"))
    visit.expect_uploaded(1)
    (stored,) = server.api().files()
    assert stored["bundle_id"] == made.json()["id"]
    assert stored["expired_at"] is not None
    expect(visit.row("Lake.png")).to_contain_text("Gone in")


def _sparse(path: Path, size: int) -> Path:
    """A file with holes, that nobody has."""
    noise(path, MIB)
    with path.open("r+b") as file:
        file.truncate(size)
    return path
