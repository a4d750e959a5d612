"""Tables as Markdown and JSON, and what is worth knowing about the machine."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from .measure import BENCH, GIB

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS = BENCH / "results"


@dataclass
class Table:
    """One table: its text for people, and every sample behind it."""

    title: str
    measures: str  # what is measured and how, in a sentence or two
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    samples: list[dict[str, object]] = field(default_factory=list)

    def markdown(self) -> str:
        """Return the table as Markdown; the first column is text, the others are figures."""
        head = "| " + " | ".join(self.columns) + " |"
        rule = "|---|" + "---:|" * (len(self.columns) - 1)
        rows = ["| " + " | ".join(row) + " |" for row in self.rows]
        return "\n".join([f"## {self.title}", "", self.measures, "", head, rule, *rows, ""])


def _first_field(path: str, name: str) -> str:
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return "unknown"


def _file_system(folder: Path) -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if folder.is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def machine(folder: Path, command: str) -> dict[str, str]:
    """Describe where and when the run is made."""
    memory = int(_first_field("/proc/meminfo", "MemTotal").split()[0]) * 1024
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": command,
        "kernel": f"{platform.system()} {platform.release()}",
        "processor": _first_field("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory / GIB:.0f} GiB",
        "file system": _file_system(folder.resolve()),
        "Python": platform.python_version(),
    }


def write(
    folder: Path, facts: Mapping[str, str], versions: Mapping[str, str], tables: list[Table]
) -> None:
    """Write latest.json and latest.md into the folder."""
    folder.mkdir(exist_ok=True)
    whole = {"machine": facts, "versions": versions, "tables": [asdict(t) for t in tables]}
    (folder / "latest.json").write_text(json.dumps(whole, indent=1) + "\n")
    lines = ["# Benchmark results", "", "How to run and read this: [README](../README.md).", ""]
    lines += [f"- {name}: {f'`{v}`' if name == 'command' else v}" for name, v in facts.items()]
    lines += ["", "Contenders:", ""]
    lines += [f"- `{name}`: {value}" for name, value in versions.items()]
    text = "\n".join(lines) + "\n\n" + "\n".join(table.markdown() for table in tables)
    (folder / "latest.md").write_text(text)
