"""The tables: each function measures one and returns it."""

from __future__ import annotations

import random
import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING

from .contenders import (
    CHUNK,
    WRITTEN,
    CFloor,
    Contender,
    FastAPIUploadFile,
    Nginx,
    Plan,
    Upwell,
)
from .measure import (
    GIB,
    MIB,
    BenchError,
    Load,
    MemorySampler,
    call_load,
    cpu_seconds,
    peak_resident,
    progress,
    run_load,
    warm_memory,
)
from .report import Table

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SMALL = 1024


@dataclass(frozen=True)
class Settings:
    """What the command line asked for."""

    folder: Path
    size: int
    rounds: int
    complete_size: int
    memory_size: int
    download_size: int
    requests: int
    contenders: list[type[Contender]]

    def wants(self, contender: type[Contender]) -> bool:
        """Tell whether the contender takes part."""
        return contender in self.contenders


@dataclass(frozen=True)
class Sample:
    """One measured run of one contender."""

    contender: str
    round: int
    rate: float  # MB/s, or requests per second
    server_cpu: float  # seconds per GiB, or per 1000 requests
    client_cpu: float
    note: str = ""


def size_text(size: int) -> str:
    """Return a size in the largest binary unit that keeps it whole."""
    unit, name = (GIB, "GiB") if size % GIB == 0 else (MIB, "MiB")
    return f"{size / unit:g} {name}"


def _of(samples: list[Sample], name: str, note: str = "") -> list[Sample]:
    return [one for one in samples if one.contender == name and one.note == note]


# ---- upload --------------------------------------------------------------------------------


def upload(settings: Settings) -> Table:
    """Measure how fast one file (or as many bytes) is taken in, and what it costs the server.

    Every contender once per round, in a new order each round. The time runs from the first
    byte sent (creation included) to the last 200 received (completion or digest included).
    """
    plan = Plan(settings.size)
    samples: list[Sample] = []
    for number in range(settings.rounds):
        for kind in random.sample(settings.contenders, len(settings.contenders)):
            sample = _upload_once(kind(), settings.folder, plan, number)
            samples.append(sample)
            progress(f"upload {number + 1}/{settings.rounds}: {kind.name} {sample.rate:.0f} MB/s")
    table = Table(
        f"Upload throughput: {size_text(plan.total)}, {plan.connections} connections, 5 MiB chunks",
        f"Medians of {settings.rounds} shuffled rounds. “Its 200 promises” tells what has "
        "been done to the bytes before the answer; MB is 10⁶ bytes; processor time is "
        "user + system; the ratio is the median of each round's ratio to the C floor.",
        [
            "contender",
            "its 200 promises",
            "MB/s",
            "min … max",
            "ratio to C floor",
            "server CPU s/GiB",
            "client CPU s/GiB",
        ],
        samples=[asdict(sample) for sample in samples],
    )
    table.rows = [_upload_row(kind, samples) for kind in settings.contenders]
    return table


def _upload_once(contender: Contender, folder: Path, plan: Plan, number: int) -> Sample:
    with contender.started(folder, plan):
        warm_memory(plan.total)
        before = cpu_seconds(contender.process.pid)
        load = contender.upload(plan)
        cpu = cpu_seconds(contender.process.pid) - before
        contender.verify(plan, load)
    gib = plan.total / GIB
    rate = plan.total / load.seconds / 1e6
    return Sample(contender.name, number, rate, cpu / gib, load.client_cpu / gib)


def _upload_row(kind: type[Contender], samples: list[Sample]) -> list[str]:
    mine = _of(samples, kind.name)
    floor = {sample.round: sample.rate for sample in _of(samples, CFloor.name)}
    ratios = [sample.rate / floor[sample.round] for sample in mine if sample.round in floor]
    rates = [sample.rate for sample in mine]
    return [
        kind.title,
        kind.keeps,
        f"{median(rates):.0f}",
        f"{min(rates):.0f} … {max(rates):.0f}",
        f"{median(ratios):.2f}" if ratios else "",
        f"{median(sample.server_cpu for sample in mine):.2f}",
        f"{median(sample.client_cpu for sample in mine):.2f}",
    ]


# ---- complete ------------------------------------------------------------------------------


def complete(settings: Settings) -> Table:
    """Measure the time from the last chunk's 200 to complete's 200 of a large file.

    The chunks come in order over 4 connections. The C floor shows how far behind a hash that
    follows the chunks is on this machine.
    """
    plan = Plan(settings.complete_size)
    kinds = [kind for kind in settings.contenders if issubclass(kind, CFloor | Upwell)]
    kinds = [kind for kind in kinds if kind.keeps != WRITTEN]
    waits: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    rounds = 3
    for number in range(rounds):
        for kind in random.sample(kinds, len(kinds)):
            contender = kind()
            with contender.started(settings.folder, plan):
                warm_memory(plan.total)
                load = contender.upload(plan)
                if number == 0:
                    contender.verify(plan, load)
            waits[kind.name].append(load.final_seconds * 1000)
            progress(
                f"complete {number + 1}/{rounds}: {kind.name} {load.final_seconds * 1000:.1f} ms"
            )
    table = Table(
        f"From the last chunk to the verified file: {size_text(plan.total)}",
        f"Milliseconds from the last chunk's 200 to complete's 200 (for the C floor: to the "
        f"digest), medians of {rounds} shuffled rounds, 4 connections, chunks in order.",
        ["contender", "median ms", "min … max ms"],
        samples=[{"contender": name, "milliseconds": list_} for name, list_ in waits.items()],
    )
    for kind in kinds:
        took = waits[kind.name]
        span = f"{min(took):.1f} … {max(took):.1f}"
        table.rows.append([kind.title, f"{median(took):.1f}", span])
    return table


# ---- small files ---------------------------------------------------------------------------


@dataclass(frozen=True)
class SmallJob:
    """One way to upload a file of 1 KiB."""

    name: str
    kind: type[Contender]
    keeps: str
    mode: str
    options: dict[str, str]


_SMALL_JOBS = (
    SmallJob(
        "**Upwell** direct (1 request a file)",
        Upwell,
        "synced, SHA-256 verified",
        "direct",
        {"path": "/api/files/upload/direct"},
    ),
    SmallJob(
        "**Upwell** create + chunk + complete (3 requests a file)",
        Upwell,
        "synced, SHA-256 verified",
        "tasks",
        {
            "create": "/api/files/upload/create",
            "path": "/api/files/upload/chunk/{task_id}/",
            "final": "POST /api/files/upload/complete/{task_id}",
        },
    ),
    SmallJob("FastAPI `UploadFile`", FastAPIUploadFile, WRITTEN, "post", {"path": "/files/"}),
    SmallJob("nginx `PUT`", Nginx, WRITTEN, "put", {"path": "/"}),
)


def small(settings: Settings) -> Table:
    """Measure files of 1 KiB per second, each with content and hash of its own."""
    jobs = [job for job in _SMALL_JOBS if settings.wants(job.kind)]
    runs = [(job, connections) for job in jobs for connections in (1, 16)]
    rounds = min(settings.rounds, 3)
    samples: list[Sample] = []
    for number in range(rounds):
        for job, connections in random.sample(runs, len(runs)):
            sample = _small_once(job, connections, settings, number)
            samples.append(sample)
            progress(
                f"small {number + 1}/{rounds}: {job.name}, {connections} connections: "
                f"{sample.rate:.0f} files/s"
            )
    table = Table(
        "Small files: 1 KiB each",
        f"Files per second over 1 and 16 connections, and server processor milliseconds per "
        f"file over 16; {settings.requests} files a run, medians of {rounds} shuffled rounds.",
        ["way", "its 200 promises", "files/s, 1 conn.", "files/s, 16 conn.", "CPU ms/file"],
        samples=[asdict(sample) for sample in samples],
    )
    for job in jobs:
        one, many = (_of(samples, job.name, f"{count} connections") for count in (1, 16))
        rates = [f"{median(sample.rate for sample in group):.0f}" for group in (one, many)]
        cpu = median(sample.server_cpu for sample in many)
        table.rows.append([job.name, job.keeps, *rates, f"{cpu:.2f}"])
    return table


def _small_once(job: SmallJob, connections: int, settings: Settings, number: int) -> Sample:
    contender = job.kind()
    plan = Plan(settings.requests * SMALL, connections)
    with contender.started(settings.folder, plan):
        before = cpu_seconds(contender.process.pid)
        load = run_load(
            job.mode,
            port=contender.process.port,
            connections=connections,
            total=plan.total,
            chunk=SMALL,
            header=contender.header if isinstance(contender, Upwell) else None,
            **job.options,
        )
        cpu = cpu_seconds(contender.process.pid) - before
        if not isinstance(contender, Upwell):  # Upwell has compared each with its SHA-256
            _verify_small(contender, settings.requests)
    thousand = load.units / 1000
    return Sample(
        job.name,
        number,
        load.units / load.seconds,
        cpu / thousand,
        load.client_cpu / thousand,
        f"{connections} connections",
    )


def _verify_small(contender: Contender, count: int) -> None:
    for index in random.sample(range(count), min(count, 50)):
        path = contender.files / str(index)
        call_load("verify", path=path, first=index, total=SMALL, chunk=SMALL)


# ---- download ------------------------------------------------------------------------------


def download(settings: Settings) -> Table:
    """Measure how fast one file goes out, against nginx with sendfile, from the page cache."""
    plan = Plan(settings.download_size)
    samples: list[Sample] = []
    rounds = min(settings.rounds, 3)
    kinds = [kind for kind in (Upwell, Nginx) if settings.wants(kind)]
    with ExitStack() as stack:
        servers = []
        for kind in kinds:
            contender = stack.enter_context(kind().started(settings.folder, plan))
            servers.append((contender, _place_file(contender, plan)))
        for number in range(rounds):
            for connections in (1, 4):
                for contender, path in random.sample(servers, len(servers)):
                    samples.append(_download_once(contender, path, connections, number, plan))
            progress(f"download {number + 1}/{rounds}")
    table = Table(
        f"Download: a file of {size_text(plan.total)}",
        f"Over 1 and 4 connections (each takes whole files), medians of {rounds} rounds; the "
        "client throws the bytes away; the file is in the page cache.",
        ["contender", "MB/s, 1 conn.", "CPU s/GiB, 1 conn.", "MB/s, 4 conn.", "CPU s/GiB, 4 conn."],
        samples=[asdict(sample) for sample in samples],
    )
    for kind in kinds:
        cells = []
        for connections in (1, 4):
            group = _of(samples, kind.name, f"{connections} connections")
            cells.append(f"{median(sample.rate for sample in group):.0f}")
            cells.append(f"{median(sample.server_cpu for sample in group):.2f}")
        table.rows.append(["nginx `sendfile on`" if kind is Nginx else kind.title, *cells])
    return table


def _place_file(contender: Contender, plan: Plan) -> str:
    """Put the file where the server serves it from; return its path, checked by a download."""
    if isinstance(contender, Upwell):
        load = contender.upload(plan)
        contender.verify(plan, load)
        return contender.path_of(load)
    call_load("content", path=contender.files / "whole", total=plan.total, chunk=CHUNK)
    run_load("get", port=contender.process.port, path="/whole", chunk=CHUNK, verify=True)
    return "/whole"


def _download_once(
    contender: Contender, path: str, connections: int, number: int, plan: Plan
) -> Sample:
    before = cpu_seconds(contender.process.pid)
    load = run_load(
        "get",
        port=contender.process.port,
        path=path,
        connections=connections,
        requests=4,
        header=contender.header if isinstance(contender, Upwell) else None,
    )
    cpu = cpu_seconds(contender.process.pid) - before
    if load.received != 4 * plan.total:
        raise BenchError(f"{contender.name}: {load.received} bytes came, not {4 * plan.total}")
    gib = load.received / GIB
    rate = load.received / load.seconds / 1e6
    note = f"{connections} connections"
    return Sample(contender.name, number, rate, cpu / gib, load.client_cpu / gib, note)


# ---- memory --------------------------------------------------------------------------------


def memory(settings: Settings) -> Table:
    """Measure the peak memory of the server's process tree: many connections, a large file.

    The main figure is the largest sum of Pss (shared pages once), sampled every 50 ms; the
    sum of each process's own peak (VmHWM) is its upper bound.
    """
    table = Table(
        "Peak memory of the server",
        "MiB over the server's process tree: the sum of Pss before the run and its largest "
        "value of samples every 50 ms, and the sum of VmHWM. One run each.",
        ["contender", "upload", "idle", "peak", "sum of VmHWM"],
    )
    for kind in settings.contenders:
        _memory_row(table, kind(), settings.folder, Plan(settings.size, 200))
    free = shutil.disk_usage(settings.folder).free
    if not settings.wants(Upwell):
        return table
    for size in (256 * MIB, settings.memory_size):
        if free < size * 5 // 4:
            progress(
                f"memory: skipped the file of {size_text(size)}: it needs "
                f"{size_text(size * 5 // 4)} free on the disk (see --memory-size)"
            )
        else:
            _memory_row(table, Upwell(), settings.folder, Plan(size))
    return table


def _memory_row(table: Table, contender: Contender, folder: Path, plan: Plan) -> None:
    with contender.started(folder, plan):
        pid = contender.process.pid
        with MemorySampler(pid) as sampler:
            load: Load = contender.upload(plan)
        highest = peak_resident(pid)
        contender.verify(plan, load)
    what = f"{size_text(plan.total)}, {plan.connections} connections"
    figures = {"idle": sampler.idle, "peak": sampler.peak, "hwm": highest}
    cells = [f"{value / MIB:.0f}" for value in figures.values()]
    table.rows.append([contender.title, what, *cells])
    table.samples.append({"contender": contender.name, "upload": what, **figures})
    progress(f"memory: {contender.name}, {what}: {sampler.peak / MIB:.0f} MiB")


ALL: dict[str, Callable[[Settings], Table]] = {
    "upload": upload,
    "complete": complete,
    "small": small,
    "download": download,
    "memory": memory,
}
