"""``upwell.AsyncClient``: the same, awaited; a cancelled task leaves nothing behind."""

from __future__ import annotations

import asyncio
import io
import os
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.client.fake_server import TOKEN, FakeServer
from upwell import AsyncClient, Client
from upwell.client import ApiError, Progress, TargetExists, aio
from upwell.client import client as blocking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

CHUNK = 1000


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


_OURS = ("upwell-async", "upwell-many", "upwell-send")
_before: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _those_of_other_tests() -> None:
    """What another test left running in this process is not looked at."""
    _before.clear()
    _before.update(threading.enumerate())


def transfers() -> list[str]:
    """Threads of a client that are at work."""
    new = set(threading.enumerate()) - _before
    return [each.name for each in new if each.name.startswith(_OURS)]


def test_there_and_back(server: FakeServer, tmp_path: Path) -> None:
    async def work() -> None:
        content, told = os.urandom(5 * CHUNK), []
        here = threading.get_ident()

        def tell(progress: Progress) -> None:
            assert threading.get_ident() == here
            told.append(progress.done)

        async with AsyncClient(server.url, TOKEN) as client:
            file = await client.upload(content, name="a", chunk_size=CHUNK, progress=tell)
            got = await client.download(file.id, tmp_path)
            assert (got.path, got.path.read_bytes()) == (tmp_path / "a", content)
            stream = io.BytesIO()
            assert (await client.download_to(file.id, stream)).verified
            assert stream.getvalue() == content
            with pytest.raises(TargetExists):
                await client.download(file.id, tmp_path)
            assert [each.id async for each in client.files.all()] == [file.id]
            await client.files.delete(file.id)
            with pytest.raises(ApiError):
                await client.files.info(file.id)
        await asyncio.sleep(0)
        assert told[-1] == 5 * CHUNK

    run(work())


@pytest.mark.parametrize("size", [None, 5 * CHUNK])
def test_an_asynchronous_iterable_is_uploaded(server: FakeServer, size: int | None) -> None:
    content = os.urandom(5 * CHUNK)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 700):
            await asyncio.sleep(0)
            yield content[start : start + 700]

    async def work() -> None:
        async with AsyncClient(server.url, TOKEN) as client:
            file = await client.upload(pieces(), name="a", size=size, chunk_size=CHUNK)
            assert server.files[file.id].content == content

    run(work())


def test_many_at_once(server: FakeServer) -> None:
    async def work() -> None:
        contents = [os.urandom(3 * CHUNK) for _ in range(20)]
        async with AsyncClient(server.url, TOKEN) as client:
            uploads = (client.upload(each, name="a", chunk_size=CHUNK) for each in contents)
            files = await asyncio.gather(*uploads)
        assert [server.files[file.id].content for file in files] == contents

    run(work())


def test_a_cancelled_upload_leaves_nothing_running(server: FakeServer) -> None:
    server.delay = 0.02

    async def work() -> None:
        async with AsyncClient(server.url, TOKEN) as client:
            begun = asyncio.Event()
            upload = asyncio.ensure_future(
                client.upload(
                    os.urandom(500 * CHUNK), chunk_size=CHUNK, on_token=lambda _: begun.set()
                )
            )
            await begun.wait()
            upload.cancel()
            with pytest.raises(asyncio.CancelledError):
                await upload
            assert transfers() == []
            sent = server.count("/chunk/")
            await asyncio.sleep(0.2)
            assert server.count("/chunk/") == sent < 500

    run(work())


def test_a_cancelled_upload_goes_on_from_its_token(server: FakeServer) -> None:
    server.delay = 0.02
    content = os.urandom(60 * CHUNK)

    async def work() -> None:
        tokens: list[str] = []
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def tell(_: int) -> None:
            loop.call_soon_threadsafe(sent.set)

        server.on_chunk = tell
        async with AsyncClient(server.url, TOKEN) as client:
            upload = asyncio.ensure_future(
                client.upload(content, chunk_size=CHUNK, on_token=tokens.append)
            )
            await sent.wait()
            upload.cancel()
            await asyncio.wait([upload])
            file = await client.upload(content, chunk_size=CHUNK, token=tokens[-1])
        assert server.files[file.id].content == content

    run(work())


def test_an_iterator_that_never_comes_can_be_cancelled(server: FakeServer) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def work() -> None:
        async with AsyncClient(server.url, TOKEN) as client:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await client.upload(never())
        assert transfers() == []

    run(work())


@pytest.mark.slow
def test_a_cancelled_download_leaves_nothing_running(tmp_path: Path) -> None:
    """The server is silent in the middle of the body: only a closed connection ends the wait."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"/info" in await reader.readuntil(b"\r\n\r\n"):
            body = b'{"id": "f1", "name": "a", "size": 9000, "hash": ""}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nsome")
        await writer.drain()
        await reader.read()
        writer.close()
        closed.set()

    async def work() -> None:
        async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
            port = listening.sockets[0].getsockname()[1]
            async with AsyncClient(f"http://127.0.0.1:{port}", TOKEN, connections=1) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(2):
                        await client.download("f1", tmp_path / "a")
                assert transfers() == []
            await closed.wait()

    closed = asyncio.Event()
    began = time.monotonic()
    run(work())
    assert time.monotonic() - began < 30
    assert (tmp_path / "a.part").read_bytes() == b"some"


def test_a_folder_is_an_asynchronous_iterator(server: FakeServer, tmp_path: Path) -> None:
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text(str(number))

    async def work() -> None:
        async with AsyncClient(server.url, TOKEN) as client:
            results = [result async for result in client.upload_folder(tmp_path)]
            assert all(result.file for result in results)
            async for result in client.upload_folder(tmp_path):
                assert result.existing
                break
        assert len(results) == len(server.files) == 30

    run(work())
    assert transfers() == []


def test_every_verb_of_the_blocking_client_is_there() -> None:
    """And takes the same parameters, by the same names."""
    import inspect  # noqa: PLC0415 - only here

    pairs = [(Client, AsyncClient)] + [
        (getattr(blocking, name), getattr(aio, f"Async{name}"))
        for name in ("Files", "Uploads", "Bundles", "Pools", "Webhooks")
    ]
    left_out = {"of", "until", "close", "upload_many"}
    for ours, theirs in pairs:
        for name, verb in inspect.getmembers(ours, inspect.isfunction):
            if not name.startswith("_") and name not in left_out:
                same = getattr(theirs, name)
                assert list(inspect.signature(verb).parameters) == list(
                    inspect.signature(same).parameters
                ), f"{ours.__name__}.{name}"
