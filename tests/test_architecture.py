"""The arrows between the rooms, read from the imports; and how large things may grow.

``cli → app → {http, protocols, jobs, stores, catalog, media} → core → model, errors``;
``client`` stands alone. The two tables below are the whole rule set.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[1] / "src"
LONGEST_FUNCTION = 60  # lines
LONGEST_MODULE = 600

_VALUES = {"model", "errors"}
_OUTER = {"core", *_VALUES}

# Which rooms a room may import, beside itself; "" is the package's own facts (__version__).
MAY_IMPORT: dict[str, set[str]] = {
    "": {"client"},  # by name, lazily
    "errors": set(),
    "model": {"errors"},
    "config": _VALUES,
    "core": _VALUES,
    "stores": _OUTER,
    "catalog": _OUTER,
    "jobs": _OUTER,
    "media": _OUTER,
    "http": {"", *_OUTER},
    "protocols": _OUTER,
    "client": {""},
    "printable": set(),
    "log": {"printable"},
    "app": {
        "", "config", "log", "http", "protocols", "jobs", "stores", "catalog", "media", *_OUTER,
    },
    "cli": {"", "app", "client", "config", "core", "printable", *_VALUES},
}  # fmt: skip

# Finer than rooms: of a room, only these modules.
ONLY: dict[tuple[str, str], set[str]] = {
    ("cli", "core"): {"upwell.core.accounts", "upwell.core.pools"},
    ("stores", "core"): {"upwell.core.ports"},
    ("catalog", "core"): {"upwell.core.ports"},
}

# The distributions that a room may use, beside the standard library.
MAY_USE: dict[str, set[str]] = {
    "": set(),
    "errors": set(),
    "model": set(),
    "config": {"pydantic", "pydantic_settings"},
    "core": {"cryptography", "xxhash"},
    "stores": {"xxhash", "aiobotocore", "botocore"},
    "catalog": {"sqlalchemy", "alembic", "psycopg", "psycopg_pool"},
    "jobs": {"structlog", "standardwebhooks", "httpcore2"},
    "media": {"PIL", "pillow_heif", "pyvips", "av", "pure_magic_rs", "thumbhash"},
    "http": {
        "fastapi", "fastapi_offline", "starlette", "pydantic", "pydantic_core", "multipart",
        "uvicorn", "httptools", "structlog", "anyio", "jinja2", "markupsafe", "joserfc",
        "prometheus_client",
    },
    "protocols": {"starlette"},
    "client": {"httpx2", "stamina"},
    "printable": set(),
    "log": {"structlog"},
    "app": {"fastapi", "starlette", "structlog", "uvicorn"},
    "cli": {"typer", "rich", "click", "structlog"},
}  # fmt: skip

# A command line that only talks to a server must not pay for one: these come lazily.
LAZY_IN_CLI = {"app", "config", "core", "model", "errors"}


@dataclass(frozen=True)
class Import:
    """One import statement's target; ``runs`` when the module is loaded."""

    module: str
    line: int
    runs: bool


def _modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SOURCE.glob("upwell/**/*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def room_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def imports_of(module: str) -> tuple[Import, ...]:
    return tuple(_walk(tree_of(module), module, runs=True))


def _walk(node: ast.AST, module: str, *, runs: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            for target in _targets(child, module):
                yield Import(target, child.lineno, runs)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            yield from _walk(child, module, runs=False)
        else:
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, module, runs=runs and not inside)


def _targets(node: ast.Import | ast.ImportFrom, module: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
        for _ in range(node.level - 1):
            package = package.rpartition(".")[0]
        base = f"{package}.{base}".rstrip(".")
    named = [f"{base}.{alias.name}" for alias in node.names]
    return [name if name in MODULES else base for name in named]


def test_every_room_is_in_the_tables() -> None:
    rooms = {room_of(module) for module in MODULES}
    assert rooms <= set(MAY_IMPORT)
    assert set(MAY_IMPORT) == set(MAY_USE)


@pytest.mark.parametrize("module", MODULES)
def test_arrows(module: str) -> None:
    room = room_of(module)
    wrong = []
    for each in imports_of(module):
        if each.module.split(".")[0] != "upwell":
            continue
        target = room_of(each.module)
        only = ONLY.get((room, target))
        if target not in {room, *MAY_IMPORT[room]} or (only and each.module not in only):
            wrong.append(f"{module}:{each.line} imports {each.module}")
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_distributions(module: str) -> None:
    allowed = MAY_USE[room_of(module)] | sys.stdlib_module_names | {"upwell"}
    wrong = [
        f"{module}:{each.line} imports {each.module}"
        for each in imports_of(module)
        if each.module.split(".")[0] not in allowed
    ]
    assert not wrong


def test_the_command_line_loads_the_server_lazily() -> None:
    wrong = [
        f"{module}:{each.line} imports {each.module}"
        for module in MODULES
        if room_of(module) == "cli"
        for each in imports_of(module)
        if each.runs and each.module.startswith("upwell.") and room_of(each.module) in LAZY_IN_CLI
    ]
    assert not wrong


def test_no_import_cycles() -> None:
    graph = {
        module: {
            each.module
            for each in imports_of(module)
            if each.runs and each.module in MODULES and each.module != module
        }
        for module in MODULES
    }
    while leaves := {module for module, targets in graph.items() if not targets}:
        graph = {m: targets - leaves for m, targets in graph.items() if m not in leaves}
    assert not graph, f"these import each other: {sorted(graph)}"


@pytest.mark.parametrize("module", MODULES)
def test_nothing_grows_too_large(module: str) -> None:
    lines = len(MODULES[module].read_text().splitlines())
    assert lines <= LONGEST_MODULE, f"{module} has {lines} lines"
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= LONGEST_FUNCTION, f"{module}.{node.name} has {length} lines"


def test_the_reader_of_imports_sees_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The arrows are only as good as this."""
    path = tmp_path / "x.py"
    path.write_text(
        "import os, upwell.app\nfrom upwell import errors\nfrom . import ports\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    from upwell.http.api import make_api\n"
        "def f():\n    from ..catalog import sql\n"
        "try:\n    import sqlalchemy.orm\nexcept ImportError:\n    pass\n"
    )
    monkeypatch.setitem(MODULES, "upwell.core.x", path)
    seen = {(each.module, each.runs) for each in imports_of("upwell.core.x")}
    assert seen == {
        ("os", True),
        ("upwell.app", True),
        ("upwell.errors", True),
        ("upwell.core.ports", True),
        ("typing", True),
        ("upwell.http.api", False),
        ("upwell.catalog.sql", False),
        ("sqlalchemy.orm", True),
    }
    with pytest.raises(AssertionError):
        test_arrows("upwell.core.x")
    with pytest.raises(AssertionError):
        test_distributions("upwell.core.x")
