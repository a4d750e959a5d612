"""The guide's proxies, run: what it says of them is so."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.harness import UPWELL, Wire, eventually, token_of
from tests.proxies.world import CLIENT, GUIDE, PROXIES, Proxy, proxied

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

MIB = 1 << 20
BURST = 10  # wrong guesses that one asker may make at once


@pytest.fixture(scope="module", params=PROXIES)
def proxy(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Proxy]:
    with proxied(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


def upwell(proxy: Proxy, home: Path, *command: str) -> None:
    """A command of the client's, through the proxy."""
    own = {"UPWELL_SERVER": proxy.url, "UPWELL_TOKEN": token_of(proxy.server.data)}
    own |= {"HOME": str(home), "SSL_CERT_FILE": str(proxy.places.certificate)}
    done = subprocess.run(
        [UPWELL, *command],
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_file_of_50_mb_in_chunks(proxy: Proxy, tmp_path: Path) -> None:
    file, back = tmp_path / "holiday.mp4", tmp_path / "back.mp4"
    file.write_bytes(os.urandom(50_000_000))
    upwell(proxy, tmp_path, "put", "--patience", "20s", str(file))
    stored = proxy.api().files()[0]
    assert (stored["name"], stored["size"]) == ("holiday.mp4", 50_000_000)
    upwell(proxy, tmp_path, "get", stored["id"], "--output", str(back))
    assert back.read_bytes() == file.read_bytes()


def test_one_chunk_larger_than_the_limits_that_proxies_have(proxy: Proxy) -> None:
    content = os.urandom(65 * MIB)
    api = proxy.api()
    task = api.create(len(content), len(content))
    answer = api.put(task, 0, content)
    assert answer.status == 200, answer
    assert api.complete(task).json()["size"] == len(content)


def test_bytes_arrive_before_the_last_ones_were_sent(proxy: Proxy) -> None:
    content = os.urandom(8 * MIB)
    api = proxy.api()
    task = api.create(len(content), len(content))
    with api.wire() as wire:
        wire.send(api.put_head(task, 0, len(content)) + content[: 4 * MIB])
        eventually(lambda: on_disk(proxy, content[:MIB]), 20, "the first bytes are on its disk")
        wire.send(content[4 * MIB :])
        assert wire.answer().status == 200


def on_disk(proxy: Proxy, beginning: bytes) -> bool:
    """Whether a file of the server's begins like this."""
    for path in (proxy.server.data / "pools").rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                if file.read(len(beginning)) == beginning:
                    return True
    return False


@pytest.mark.parametrize("name", PROXIES)
def test_a_chunk_may_take_longer_than_every_timeout(name: str, tmp_path: Path) -> None:
    content = os.urandom(MIB)
    with proxied(name, tmp_path, timeout="2s") as proxy:
        api = proxy.api()
        task = api.create(len(content), len(content))
        with api.wire() as wire:
            wire.send(api.put_head(task, 0, len(content)))
            for at in range(0, len(content), 128 << 10):
                wire.send(content[at : at + (128 << 10)])
                time.sleep(0.7)
            assert wire.answer().status == 200


def test_events_arrive_at_once(proxy: Proxy) -> None:
    api = proxy.api()
    with api.wire() as wire:
        wire.send(api.request("GET", "/api/events", headers={"Accept": "text/event-stream"}))
        assert wire.head()[0] == 200
        task = api.create(5, 5)
        while not (line := wire.line()).startswith(b"data:"):
            pass
        assert json.loads(line.partition(b":")[2])["data"]["task_id"] == task


def test_ranges(proxy: Proxy) -> None:
    content = os.urandom(3 * MIB)
    api = proxy.api()
    file = api.finish(api.create(len(content), MIB), content, MIB)
    path = f"/api/files/{file['id']}"
    part = api.call("GET", path, headers={"Range": "bytes=1000000-1999999"})
    assert (part.status, part.body) == (206, content[1_000_000:2_000_000])
    assert part.headers["content-range"] == f"bytes 1000000-1999999/{len(content)}"
    head = api.call("HEAD", path)
    assert (head.status, head.headers["content-length"]) == (200, str(len(content)))
    assert "content-encoding" not in head.headers


def test_a_name_may_be_as_long_as_it_likes(proxy: Proxy) -> None:
    content, name = os.urandom(10), "\U0001f600" * 1024
    api = proxy.api()
    file = api.finish(api.create(len(content), 10, file_name=name), content, 10)
    answer = api.call("GET", f"/api/files/{file['id']}?download=true")
    assert answer.body == content
    assert answer.headers["content-disposition"].endswith("%F0%9F%98%80" * 1024)


def test_cookies_are_secure_and_links_lead_back(proxy: Proxy) -> None:
    api = proxy.api()
    login = [UPWELL, "login", "--data", str(proxy.server.data)]
    printed = subprocess.run(login, check=True, capture_output=True, text=True, timeout=60).stdout
    code = printed.strip().partition("?")[2].encode()
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = api.call("POST", "/login", code, kind)
    assert answer.status == 303
    assert re.search(r"; secure\b", answer.headers["set-cookie"], re.IGNORECASE)
    made = api.post_json("/api/bundles", {"name": "Summer"}).json()
    assert made["url"] == f"{proxy.url}/b/{made['slug']}"


def test_plain_http_leads_to_https(proxy: Proxy) -> None:
    with Wire(proxy.places.plain) as wire:
        wire.send(b"GET /b/summer HTTP/1.1\r\nHost: localhost\r\n\r\n")
        status, headers = wire.head()
    assert 301 <= status <= 308
    assert headers["location"].startswith("https://localhost")


def test_a_client_cannot_choose_its_address(proxy: Proxy) -> None:
    api = proxy.api()
    made = api.post_json("/api/bundles", {"name": "Summer", "passcode": "the right one"}).json()
    path = f"/api/bundles/public/{made['slug']}?passcode=wrong"
    api.token = ""

    def guess(number: int) -> int:
        with api.wire() as wire:
            lines = [f"GET {path} HTTP/1.1", f"Host: localhost:{api.port}"]
            lines.append(f"X-Forwarded-For: 198.51.100.{number}")
            wire.send("\r\n".join([*lines, "", ""]).encode())
            return wire.answer().status

    assert [guess(number) for number in range(BURST + 1)] == [403] * BURST + [429]
    guesses = [each for each in proxy.server.events("request") if made["slug"] in each["path"]]
    assert {each["client"] for each in guesses} == {CLIENT}


def test_the_traefik_configuration_is_yaml() -> None:
    """More cannot be said of it here, and the guide says so."""
    texts = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE)
    static, dynamic = map(yaml.safe_load, texts)
    router = dynamic["http"]["routers"]["upwell"]
    assert router["service"] in dynamic["http"]["services"]
    assert set(router["entryPoints"]) <= set(static["entryPoints"])
    assert router["tls"]["certResolver"] in static["certificatesResolvers"]
