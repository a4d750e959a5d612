"""The documents are held against the product: nothing may be missing, nothing invented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from typer.main import get_command

from upwell import app, config, errors
from upwell.cli import app as cli

if TYPE_CHECKING:
    from fastapi import FastAPI

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _text(*names: str) -> str:
    return "\n".join((ROOT / name).read_text() for name in names)


def _leaves(kind: type[errors.UpwellError]) -> list[type[errors.UpwellError]]:
    below = kind.__subclasses__()
    return [leaf for each in below for leaf in _leaves(each)] if below else [kind]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    core = app.build(config.Settings(data=tmp_path_factory.mktemp("data")))
    try:
        return app.api_of(core)
    finally:
        core.close()


def test_every_error_code_is_in_the_api_reference() -> None:
    text = _text("docs/api.md")
    codes = {leaf.code for leaf in _leaves(errors.UpwellError)}
    assert {code for code in codes if f"`{code}`" not in text} == set()


def test_the_api_reference_names_no_code_that_does_not_exist() -> None:
    named = set(re.findall(r"`([A-Z][A-Z_]+[A-Z])`", _text("docs/api.md")))
    known = {leaf.code for leaf in _leaves(errors.UpwellError)} | {"HEADERS_TOO_LARGE"}
    assert named - known - {"GET", "PUT", "POST", "HEAD", "PATCH", "DELETE"} == set()


def test_every_route_is_in_the_api_reference(api: FastAPI) -> None:
    text = _text("docs/api.md")
    paths = [path for path in api.openapi()["paths"] if not path.startswith("/drive/")]
    assert [path for path in paths if path not in text] == []


def test_every_route_is_described_under_both_prefixes(api: FastAPI) -> None:
    paths = set(api.openapi()["paths"])
    ours = {path.removeprefix("/api") for path in paths if path.startswith("/api/files")}
    alias = {path.removeprefix("/drive") for path in paths if path.startswith("/drive/files")}
    assert ours == alias


def test_every_setting_is_in_the_operations_guide() -> None:
    text = _text("docs/operations.md")
    names = config.Settings.model_fields
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_command_is_in_the_readme_or_a_guide() -> None:
    text = _text("README.md", "docs/operations.md")
    root = typer.Context(get_command(cli), info_name="upwell")
    missing = [name for name in root.command.commands if not re.search(rf"\b{name}\b", text)]  # type: ignore[attr-defined]
    assert missing == []


def test_links_between_documents_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            outside = target.startswith("https://")
            assert outside or (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_invariants_are_numbered_as_in_the_contract() -> None:
    found = re.findall(r"^- \*\*(I\d)\*\*", _text("docs/invariants.md"), re.MULTILINE)
    assert found == [f"I{number}" for number in range(1, 10)]


def test_every_invariant_has_a_test_that_carries_its_number() -> None:
    tests = " ".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    names = " ".join(re.findall(r"def (test_\w+)", tests)).lower()
    assert [n for n in range(1, 10) if not re.search(rf"_i{n}(_|\b)", names)] == []
