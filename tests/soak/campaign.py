"""Clients work, the server is cut off and started again, and everything is compared."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.harness import UPWELL, Server, eventually, together
from tests.soak.model import Verdict, judge_file
from tests.soak.workload import Client, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.soak.faults import Place
    from tests.soak.model import Kept

CONFIG = '[server]\nmin_free_space = "1MiB"\nsweep_interval = 1\nsnapshot_interval = 2\n'
UNSYNCED = Path(__file__).with_name("unsynced")
INTERRUPTED = 0.2  # of the cuts are followed by another one while the server starts
SAMPLE = 100  # older files that are read again after each cut; after the last one all are


class ForgetfulServer(Server):
    """A server that never syncs the bytes of uploads: a campaign must find what that loses."""

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PYTHONPATH": str(UNSYNCED)}


@dataclass
class Campaign:
    """Cuts a server that ``clients`` work with; ``run`` yields what each cut has shown."""

    place: Place
    workers: int
    seed: int
    clients: int = 6
    server_type: type[Server] = Server
    longest: float = 3.0  # seconds that clients work before a cut
    verdict: Verdict = field(default_factory=Verdict)
    cuts: int = 0
    acknowledged: int = 0

    def __post_init__(self) -> None:
        self._dice = random.Random(self.seed)
        self._people = [Client(self._dice.getrandbits(64)) for _ in range(self.clients)]
        data = self.place.folder / f"data-{self.seed}-{self.workers}"
        self._server = self.server_type(
            data, workers=self.workers, config=CONFIG, log=self.place.log
        )
        self._compared: set[str] = set()

    def run(self, cuts: int, until: float) -> Iterator[Verdict]:
        """At most that many cuts, until that instant of the monotonic clock."""
        self._server.start()
        try:
            while self.cuts < cuts and time.monotonic() < until:
                self._work_and_cut()
                if not self._starts():
                    yield self.verdict
                    return
                yield self._compare(everything=False)
            yield self._compare(everything=True)
        finally:
            self._server.kill()

    def _work_and_cut(self) -> None:
        stop = threading.Event()
        self._connect()
        threads = [
            threading.Thread(target=each.run, args=(stop,), daemon=True) for each in self._people
        ]
        for each in threads:
            each.start()
        time.sleep(self._dice.uniform(0.05, self.longest))
        self.place.cut(self._server)
        stop.set()
        for each in threads:
            each.join(60)
            assert not each.is_alive(), "a client hangs"
        self.cuts += 1
        if self._dice.random() < INTERRUPTED:
            self._start_and_cut()

    def _start_and_cut(self) -> None:
        """Cut the server off again while it starts."""
        starting = threading.Thread(target=self._start_in_vain, daemon=True)
        starting.start()
        eventually(lambda: self._server.process is not None, 60, "the server is being started")
        time.sleep(self._dice.uniform(0, 2))
        self.place.cut(self._server)
        starting.join(60)
        assert not starting.is_alive()
        self._server.kill()
        self.cuts += 1

    def _start_in_vain(self) -> None:
        with suppress(AssertionError, AttributeError):  # its process is taken away meanwhile
            self._server.start()

    def _starts(self) -> bool:
        """Start the server again; one that cannot has lost everything."""
        try:
            self._server.start()
        except AssertionError as error:
            self.verdict.lost.append(f"everything: {str(error).strip().splitlines()[-1]}")
            return False
        self._connect()
        return True

    def _connect(self) -> None:
        api = self._server.api(timeout=60)
        for each in self._people:
            each.api = api

    def _compare(self, *, everything: bool) -> Verdict:
        """Ask the server for what it has promised. Half of the open uploads are finished, the
        others see further cuts."""
        found = Verdict()

        def look(client: Client, seed: int) -> Callable[[], Verdict]:
            return lambda: self._judge(client, random.Random(seed), everything=everything)

        seeds = [self._dice.getrandbits(64) for _ in self._people]
        looks = [look(*pair) for pair in zip(self._people, seeds, strict=True)]
        for one in together(looks, seconds=600):
            found.add(one)
        self.acknowledged = sum(each.acknowledged for each in self._people)
        for each in self._people:
            found.wrong += each.complaints
            each.complaints = []
        if everything:
            found.wrong += self._verified()
        self.verdict.add(found)
        return found

    def _judge(self, client: Client, dice: random.Random, *, everything: bool) -> Verdict:
        found = Verdict()
        for upload in list(client.uploads):
            try:
                state = client.state(upload)
                found.add(upload.judge_chunks(set(state["uploaded_chunks"])))
                if everything or dice.random() < 0.5:
                    client.fill(upload)
                    client.complete(upload)
            except Unanswered:
                found.lost.append(f"upload {upload.task} is not what it was")
                client.uploads.remove(upload)
        new = [each for each in client.kept if each.file not in self._compared]
        old = [each for each in client.kept if each.file in self._compared]
        count = len(old) if everything else min(len(old), SAMPLE // self.clients)
        for each in [*new, *dice.sample(old, count)]:
            found.add(judge_file(each, *self._download(client, each)))
            self._compared.add(str(each.file))
        return found

    def _download(self, client: Client, kept: Kept) -> tuple[int, bytes]:
        headers = {"X-Encrypt-Password": kept.password} if kept.password else {}
        answer = client.api.call("GET", f"/api/files/{kept.file}", headers=headers)
        return answer.status, answer.body

    def _verified(self) -> list[str]:
        """Run the product's own verification; its findings."""
        command = [UPWELL, "verify", "--data", str(self._server.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return [] if done.returncode == 0 else [f"upwell verify: {done.stdout} {done.stderr}"]
