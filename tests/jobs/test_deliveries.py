"""Webhooks against real servers that fail, hang, redirect, lie, or lead somewhere else."""

from __future__ import annotations

import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import httpcore2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from standardwebhooks import Webhook as Verifier
from structlog.testing import capture_logs

from tests.core.world import KEY, World, content
from tests.harness import eventually
from tests.jobs.receiver import Receiver, answer, hang, repeat, say
from upwell.core.events import Events, address_of, described
from upwell.jobs import outbound
from upwell.jobs.deliveries import DELAYS, THREADS, Deliveries, _Silent, _Turns
from upwell.jobs.outbound import AddressRefused, Network, is_public, post
from upwell.jobs.runner import JobFailed, Runner, Work
from upwell.model import Event, EventType, Job, JobKind, Webhook

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

PUBLIC = "93.184.215.14"


class Hooks:
    """An account with events, and the runner that delivers them."""

    def __init__(self, world: World, *, private: bool = True) -> None:
        self.world = world
        self.events = Events(world.catalog, world.clock, KEY)
        work = Deliveries(world.catalog, self.events, world.clock, private_networks=private)
        works = {JobKind.DELIVER: Work(work.do, DELAYS, THREADS)}
        self.runner = Runner(world.catalog, world.clock, works)
        self._files = 0

    def add(self, url: str, *types: EventType) -> tuple[Webhook, str]:
        return self.events.add_webhook(self.world.me, url, types or (EventType.FILE_CREATED,))

    def happen(self) -> Event:
        """A file is created."""
        self._files += 1
        self.world.upload(self.world.me, content(8, self._files), file_name=f"{self._files}.bin")
        return self.events.since(self.world.me, 0, 1000)[-1]

    def jobs(self, webhook: Webhook) -> list[Job]:
        """Oldest first."""
        return self.events.deliveries(self.world.me, webhook.id, 0, 1000).items[::-1]

    def is_disabled(self, webhook: Webhook) -> bool:
        return self.events.webhook(self.world.me, webhook.id).disabled_at is not None

    def run(self) -> int:
        return self.runner.run_due()

    def retry(self, number: int) -> int:
        """Deliver what is due after the ``number``th attempt failed (from 1)."""
        self.world.clock.now += DELAYS[number - 1] * 1.2
        return self.run()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, "memory")
    yield made
    made.close()


@pytest.fixture
def hooks(world: World) -> Hooks:
    return Hooks(world)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as made:
        yield made


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbound, "SECONDS", 0.4)


# what is sent


def test_an_event_is_delivered_signed(hooks: Hooks, receiver: Receiver) -> None:
    webhook, secret = hooks.add(receiver.url)
    event = hooks.happen()
    assert hooks.run() == 1
    (got,) = receiver.received
    assert got.line == "POST /hook?token=sesame HTTP/1.1"
    assert got.headers["host"] == f"127.0.0.1:{receiver.port}"
    assert got.headers["content-type"] == "application/json"
    assert got.json() == described(event)
    assert got.is_signed_with(secret)
    assert Verifier(secret).verify(got.body, got.headers) == described(event)
    assert str(event.seq) in got.id
    assert webhook.id in got.id
    (job,) = hooks.jobs(webhook)
    assert (job.error, job.attempts) == (None, 1)
    assert job.finished_at is not None
    assert hooks.run() == 0


def test_each_webhook_gets_what_it_wants_under_its_own_secret(
    hooks: Hooks, receiver: Receiver
) -> None:
    _, first = hooks.add(receiver.url)
    _, second = hooks.add(receiver.url, EventType.FILE_CREATED, EventType.UPLOAD_CREATED)
    hooks.happen()
    assert hooks.run() == 3
    types = sorted(each.json()["type"] for each in receiver.received)
    assert types == ["file.created", "file.created", "upload.created"]
    assert len(set(receiver.ids)) == 3
    assert sum(each.is_signed_with(first) for each in receiver.received) == 1
    assert sum(each.is_signed_with(second) for each in receiver.received) == 2


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_any_success_is_one(hooks: Hooks, receiver: Receiver, status: int) -> None:
    receiver.behave = answer(status, body=b"" if status == 204 else b"fine")
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    hooks.run()
    (job,) = hooks.jobs(webhook)
    assert job.finished_at is not None
    assert job.error is None


# failing, and trying again


def test_it_is_tried_again_with_the_same_id_and_then_given_up(
    hooks: Hooks, receiver: Receiver
) -> None:
    receiver.behave = answer(500, body=b"secret of the receiver")
    webhook, secret = hooks.add(receiver.url)
    hooks.happen()
    assert hooks.run() == 1
    for number in range(1, len(DELAYS) + 1):
        (job,) = hooks.jobs(webhook)
        assert (job.attempts, job.finished_at) == (number, None)
        assert job.error == "it answered 500"
        hooks.world.clock.now += DELAYS[number - 1] * 0.99
        assert hooks.run() == 0, "too early"
        hooks.world.clock.now += DELAYS[number - 1] * 0.22
        assert hooks.run() == 1
    assert len(receiver.received) == len(DELAYS) + 1
    assert len(set(receiver.ids)) == 1
    assert len({each.body for each in receiver.received}) == 1
    stamps = [int(each.headers["webhook-timestamp"]) for each in receiver.received]
    assert stamps == sorted(set(stamps)), "each try is signed at its own time"
    assert all(each.is_signed_with(secret) for each in receiver.received)
    (job,) = hooks.jobs(webhook)
    assert job.finished_at is not None
    assert job.error == "it answered 500"
    assert not hooks.is_disabled(webhook)
    hooks.world.clock.now += timedelta(days=30)
    assert hooks.run() == 0


def test_the_waits_between_tries() -> None:
    minutes = [each.total_seconds() / 60 for each in DELAYS]
    assert minutes == [5 / 60, 1, 5, 30, 120, 300, 600, 840]


def test_a_later_try_gets_through(hooks: Hooks, receiver: Receiver) -> None:
    receiver.behave = answer(503)
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    hooks.run()
    receiver.behave = answer(204)
    assert hooks.retry(1) == 1
    (job,) = hooks.jobs(webhook)
    assert job.error is None
    assert job.finished_at is not None
    assert receiver.ids[0] == receiver.ids[1]


def test_what_a_dead_process_had_in_hand_is_sent_again_with_the_same_id(
    hooks: Hooks, receiver: Receiver
) -> None:
    hooks.add(receiver.url)
    hooks.happen()
    clock, catalog = hooks.world.clock, hooks.world.catalog
    job = catalog.claim_job([JobKind.DELIVER], "dead", clock(), clock() + timedelta(minutes=5))
    assert job is not None
    assert hooks.run() == 0
    clock.advance(minutes=6)
    assert hooks.run() == 1
    event = hooks.events.since(hooks.world.me, 0, 10)[-1]
    assert receiver.ids[0].startswith(f"evt_{event.seq}_")


@pytest.mark.parametrize(
    ("behave", "why"),
    [
        (answer(302, "Location: http://127.0.0.1:1/"), "redirects are not followed"),
        (answer(307, "Location: /elsewhere"), "redirects are not followed"),
        (answer(404), "it answered 404"),
        (say(b""), "the connection broke"),
        (say(b"+OK POP3 ready, and a secret\r\n\r\n"), "the answer was not HTTP"),
        (say(b"HTTP/1.1 20"), "the connection broke"),
        (say(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"), "not HTTP"),
        (say(200_000 * b"x"), "the answer was not HTTP"),
        (repeat(b"HTTP/1.1 200 OK\r\n", b"X-More: " + 4096 * b"x" + b"\r\n"), "not HTTP"),
    ],
)
def test_what_is_no_success_is_tried_again(
    hooks: Hooks, receiver: Receiver, behave: Any, why: str
) -> None:
    receiver.behave = behave
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    hooks.run()
    (job,) = hooks.jobs(webhook)
    assert job.finished_at is None
    assert job.error is not None
    assert why in job.error
    assert "secret" not in job.error
    assert receiver.connections == 1


def test_nobody_listens(hooks: Hooks, receiver: Receiver) -> None:
    webhook, _ = hooks.add(receiver.url)
    receiver.close()
    hooks.happen()
    hooks.run()
    (job,) = hooks.jobs(webhook)
    assert job.error is not None
    assert job.error.startswith("cannot connect")
    assert "sesame" not in job.error


@pytest.mark.parametrize(
    "behave",
    [
        hang,
        repeat(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.02),
        repeat(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
        repeat(b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
    ],
    ids=["silent", "drop-by-drop", "interim", "interim-flood"],
)
@pytest.mark.usefixtures("hurried")
def test_no_answer_takes_longer_than_is_allowed_in_all(
    hooks: Hooks, receiver: Receiver, behave: Any
) -> None:
    receiver.behave = behave
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    began = time.monotonic()
    hooks.run()
    assert time.monotonic() - began < 20
    (job,) = hooks.jobs(webhook)
    assert job.finished_at is None
    assert job.error is not None
    assert job.error.startswith("no answer within")


@pytest.mark.parametrize(
    "behave",
    [
        repeat(b"HTTP/1.1 200 OK\r\n\r\n", 65536 * b"x"),
        repeat(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 0.01),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\nx"),
        say(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nmore than that"),
        say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnothing of the kind"),
    ],
    ids=["for-ever", "drop-by-drop", "too-short", "too-long", "not-chunked"],
)
def test_the_body_of_an_answer_is_not_read(hooks: Hooks, receiver: Receiver, behave: Any) -> None:
    receiver.behave = behave
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    began = time.monotonic()
    hooks.run()
    assert time.monotonic() - began < 20
    (job,) = hooks.jobs(webhook)
    assert job.error is None
    assert job.finished_at is not None


# ends


def test_410_disables_a_webhook(hooks: Hooks, receiver: Receiver) -> None:
    receiver.behave = answer(410)
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    hooks.happen()
    assert hooks.run() == 2
    assert len(receiver.received) == 1
    first, second = hooks.jobs(webhook)
    assert hooks.is_disabled(webhook)
    assert first.error == "it answered 410: the webhook is disabled"
    assert second.error == "the webhook is disabled"
    assert first.finished_at is not None
    assert second.finished_at is not None
    hooks.happen()
    assert len(hooks.jobs(webhook)) == 2


def test_a_removed_webhook_is_sent_nothing_more(hooks: Hooks, receiver: Receiver) -> None:
    receiver.behave = answer(500)
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    hooks.run()
    hooks.events.remove_webhook(hooks.world.me, webhook.id)
    assert hooks.retry(1) == 0
    assert len(receiver.received) == 1


def test_an_event_that_is_no_longer_kept_cannot_be_sent(hooks: Hooks, receiver: Receiver) -> None:
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    hooks.world.clock.advance(days=1)
    hooks.world.catalog.forget_events(hooks.world.clock())
    hooks.run()
    (job,) = hooks.jobs(webhook)
    assert job.error == "the event is no longer kept"
    assert job.finished_at is not None
    assert receiver.connections == 0


def test_a_secret_of_another_key_ends_a_delivery(world: World, receiver: Receiver) -> None:
    hooks = Hooks(world)
    webhook, _ = hooks.add(receiver.url)
    stolen, _ = hooks.add(receiver.url)
    world.catalog.remove_webhook(webhook.id, world.me.account.id)
    world.catalog.add_webhook(
        Webhook(
            webhook.id,
            webhook.account_id,
            webhook.url,
            webhook.events,
            stolen.wrapped_secret,
            webhook.created_at,
        ),
        9,
    )
    hooks.events.remove_webhook(world.me, stolen.id)
    hooks.happen()
    hooks.run()
    (job,) = hooks.jobs(webhook)
    assert job.finished_at is not None
    assert "server's key" in (job.error or "")
    assert receiver.connections == 0


def fail_for_good(hooks: Hooks) -> None:
    hooks.run()
    for number in range(1, len(DELAYS) + 1):
        hooks.retry(number)


def test_a_webhook_that_nothing_gets_through_to_is_disabled(
    hooks: Hooks, receiver: Receiver
) -> None:
    webhook, _ = hooks.add(receiver.url)
    receiver.close()
    hooks.happen()
    fail_for_good(hooks)
    assert not hooks.is_disabled(webhook), "two days are no five"
    hooks.world.clock.advance(days=4)
    hooks.happen()
    fail_for_good(hooks)
    assert hooks.is_disabled(webhook)


def test_a_webhook_that_something_gets_through_to_is_not_disabled(
    hooks: Hooks, receiver: Receiver
) -> None:
    webhook, _ = hooks.add(receiver.url)
    hooks.happen()
    hooks.run()
    receiver.behave = answer(400)
    hooks.world.clock.advance(days=6)
    hooks.happen()
    fail_for_good(hooks)
    assert not hooks.is_disabled(webhook)


# tests


def test_a_test_message_is_sent_once_whatever_becomes_of_it(
    hooks: Hooks, receiver: Receiver
) -> None:
    webhook, secret = hooks.add(receiver.url)
    hooks.world.catalog.disable_webhook(webhook.id, hooks.world.clock())
    hooks.events.test_webhook(hooks.world.me, webhook.id)
    hooks.run()
    (got,) = receiver.received
    told = Verifier(secret).verify(got.body, got.headers)
    assert (told["type"], told["seq"]) == ("webhook.test", None)
    assert told["data"] == {"webhook_id": webhook.id}
    receiver.behave = answer(500)
    hooks.events.test_webhook(hooks.world.me, webhook.id)
    hooks.run()
    good, bad = hooks.jobs(webhook)
    assert good.error is None
    assert bad.error == "it answered 500"
    assert good.finished_at is not None
    assert bad.finished_at is not None
    assert receiver.ids[0] != receiver.ids[1]


# one that hangs does not keep the others waiting


def test_a_silent_webhook_is_tried_by_one_at_a_time() -> None:
    turns = _Turns()
    with turns.of("a"), turns.of("a"):
        pass  # it has answered so far

    def wait_in_vain() -> None:
        with turns.of("a"):
            raise _Silent("no answer")

    with pytest.raises(_Silent):
        wait_in_vain()
    with turns.of("a"), turns.of("b"):
        with pytest.raises(JobFailed, match="another event"), turns.of("a"):
            raise AssertionError
        with pytest.raises(JobFailed, match="another event"), turns.of("a"):
            raise AssertionError
    with turns.of("a"), turns.of("a"):
        pass  # it answered again


@pytest.mark.usefixtures("hurried")
def test_a_hanging_webhook_does_not_hold_up_another(hooks: Hooks, receiver: Receiver) -> None:
    with Receiver(hang) as stuck:
        hooks.add(stuck.url)
        for _ in range(20):
            hooks.happen()
        hooks.add(receiver.url)
        hooks.happen()
        hooks.runner.start()
        eventually(lambda: bool(receiver.received), 60, "the other one is told")
        hooks.runner.stop()
    assert stuck.connections < 15, "not all of what came before had to be waited for"


# only to the public internet


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255",
        "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1", "172.31.255.255",
        "192.0.0.8", "192.0.2.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1",
        "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe",
        "64:ff9b::127.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1",
        "2002:7f00:1::", "2002:0a00:1::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1",
        "fe80::1%eth0", "fec0::1", "ff02::1", "4000::1", "", "localhost", "127.1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC, "1.1.1.1", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0",
        "192.0.1.1", "198.17.255.255", "223.255.255.255", "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1",
    ],
)  # fmt: skip
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(address)
    assert ip_address(address)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "localhost.", "127.1", "2130706433", "0x7f000001", "0177.0.0.1",
        "0.0.0.0", "0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
        "[64:ff9b::7f00:1]",
    ],
)  # fmt: skip
def test_this_machine_is_not_reached_under_any_name(
    world: World, receiver: Receiver, host: str
) -> None:
    hooks = Hooks(world, private=False)
    webhook, _ = hooks.add(f"http://{host}:{receiver.port}/")
    hooks.happen()
    hooks.run()
    (job,) = hooks.jobs(webhook)
    assert receiver.connections == 0
    assert job.error is not None
    assert job.error.startswith("cannot connect: its host has no address")


class System(httpcore2.NetworkBackend):
    """Remembers what it was to connect to."""

    def __init__(self) -> None:
        self.connected: list[str] = []

    def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore2.NetworkStream:
        self.connected.append(host)
        return httpcore2.MockStream([])


class Rebinding:
    """A name server that answers something else each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)

    def __call__(self, host: str, port: int) -> list[str]:
        return self.answers.pop(0)


def test_a_name_is_looked_up_once_and_what_was_checked_is_connected_to() -> None:
    names, system = Rebinding([PUBLIC], ["127.0.0.1"]), System()
    network = Network(5, private=False, resolver=names, system=system)
    network.connect_tcp("rebinding.example", 80)
    assert system.connected == [PUBLIC]
    assert names.answers == [["127.0.0.1"]], "asked only once"
    with pytest.raises(AddressRefused):
        network.connect_tcp("rebinding.example", 80)
    assert system.connected == [PUBLIC]


def test_rebinding_does_not_reach_this_machine(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole way: a name that is public when it is looked at, and local a moment later."""
    address = address_of(f"http://rebinding.example:{receiver.port}/")
    assert address is not None
    names = Rebinding([PUBLIC], ["127.0.0.1"], ["127.0.0.1"])
    tried: list[str] = []

    def connect(self: Any, host: str, *_: Any, **__: Any) -> httpcore2.NetworkStream:
        tried.append(host)
        raise httpcore2.ConnectError("no such network here")

    monkeypatch.setattr(httpcore2.SyncBackend, "connect_tcp", connect)
    with pytest.raises(httpcore2.ConnectError):
        post(address, {}, b"", resolver=names)
    monkeypatch.undo()
    assert tried == [PUBLIC]
    with pytest.raises(AddressRefused):
        post(address, {}, b"", resolver=names)
    assert receiver.connections == 0
    assert post(address, {}, b"", resolver=names, private=True) == 204


def test_of_several_addresses_only_the_public_ones_count() -> None:
    system = System()
    names = Rebinding(["10.0.0.1", "fe80::1", PUBLIC])
    Network(5, private=False, resolver=names, system=system).connect_tcp("a.example", 80)
    assert system.connected == [PUBLIC]


def test_the_next_address_is_tried_when_one_does_not_answer() -> None:
    system = System()
    real = system.connect_tcp

    def connect(host: str, *args: Any, **more: Any) -> httpcore2.NetworkStream:
        stream = real(host, *args, **more)
        if host == PUBLIC:
            raise httpcore2.ConnectTimeout
        return stream

    system.connect_tcp = connect  # type: ignore[method-assign]
    network = Network(5, private=False, resolver=lambda *_: [PUBLIC, "1.1.1.1"], system=system)
    network.connect_tcp("a.example", 80)
    assert system.connected == [PUBLIC, "1.1.1.1"]


def test_a_name_that_nobody_knows(hooks: Hooks) -> None:
    webhook, _ = hooks.add("http://nowhere.invalid/")
    hooks.happen()
    hooks.run()
    (job,) = hooks.jobs(webhook)
    assert job.error == "cannot connect: its host is not known"


def test_which_names_an_inner_network_has_is_not_told() -> None:
    """A name that nobody knows and one that leads to a private address are one answer."""

    def unknown(*_: object) -> list[str]:
        raise OSError("no such name")

    told = set()
    for resolver in (unknown, lambda *_: ["10.0.0.1"], lambda *_: ["::1"], lambda *_: []):
        network = Network(5, private=False, resolver=resolver, system=System())
        with pytest.raises(AddressRefused) as caught:
            network.connect_tcp("printer.corp", 80)
        told.add(str(caught.value))
    assert len(told) == 1


def test_proxies_of_the_environment_are_not_used(
    hooks: Hooks, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Receiver() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        hooks.add(receiver.url)
        hooks.happen()
        hooks.run()
        assert len(receiver.received) == 1
        assert proxy.connections == 0


# TLS


def certificate(folder: Path) -> Path:
    """For 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def test_only_a_trusted_certificate_will_do(
    hooks: Hooks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    with Receiver(tls=tls) as receiver:
        webhook, _ = hooks.add(receiver.url)
        hooks.happen()
        hooks.run()
        (job,) = hooks.jobs(webhook)
        assert "certificate" in (job.error or "")
        assert receiver.received == []
        trusting = ssl.create_default_context(cafile=path)
        monkeypatch.setattr(outbound, "_tls", lambda: trusting)
        hooks.retry(1)
        assert len(receiver.received) == 1
        assert hooks.jobs(webhook)[0].error is None


# secrets


def test_nothing_secret_is_logged_or_told_i9(hooks: Hooks, receiver: Receiver) -> None:
    receiver.behave = answer(410, body=b"secret of the receiver")
    webhook, secret = hooks.add(receiver.url)
    hooks.happen()
    with capture_logs() as lines:
        hooks.run()
        hooks.happen()
    told = str(lines) + str(hooks.jobs(webhook))
    assert "webhook disabled" in told
    assert secret.removeprefix("whsec_") not in told
    assert "sesame" not in told
    assert "secret of the receiver" not in told


def test_the_threads_of_a_runner_deliver_at_once(hooks: Hooks, receiver: Receiver) -> None:
    meeting = threading.Barrier(THREADS)

    def behave(conn: Any) -> None:
        meeting.wait(60)
        conn.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    receiver.behave = behave
    webhook, _ = hooks.add(receiver.url)
    for _ in range(THREADS):
        hooks.happen()
    hooks.runner.start()
    until = time.monotonic() + 60
    while time.monotonic() < until and not all(j.finished_at for j in hooks.jobs(webhook)):
        time.sleep(0.02)
    hooks.runner.stop()
    assert [job.error for job in hooks.jobs(webhook)] == THREADS * [None]
    assert len(set(receiver.ids)) == THREADS
