"""What `pip install` does with a checkout, an sdist and a wheel: the page comes along."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import httpx2
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import tests.harness
from tests.harness import Server, token_of
from web import build_page

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
OFFLINE = {"npm_config_registry": "http://127.0.0.1:9", "npm_config_fetch_retries": "0"}


def _run(
    *command: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _uv(
    *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return _run(UV, *arguments, env=env)


def _built(kind: str, source: Path, folder: Path) -> Path:
    """An archive of the package, made where npm reaches no registry unless it is the first."""
    done = _uv("build", f"--{kind}", "--out-dir", folder, source)
    assert done.returncode == 0, done.stderr
    return next(path for path in folder.iterdir() if path.suffix in (".gz", ".whl"))


def _installed(wanted: str, environment: Path) -> Path:
    """The programs of a fresh environment with this in it."""
    assert _uv("venv", "-q", "--python", sys.executable, environment).returncode == 0
    python = environment / "bin" / "python"
    done = _uv("pip", "install", "-q", "--python", python, "-c", ROOT / "constraints.txt", wanted)
    assert done.returncode == 0, done.stderr
    return environment / "bin"


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def unpacked(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patched:
        for name, value in OFFLINE.items():
            patched.setenv(name, value)
        return _built("wheel", sdist, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_sdist_has_the_page_and_all_it_is_built_from(unpacked: Path) -> None:
    assert (unpacked / "src/upwell/page/index.html").is_file()
    assert list((unpacked / "src/upwell/page/assets").glob("*.js.br"))
    for path in build_page._sources():
        assert (unpacked / path.relative_to(ROOT)).read_bytes() == path.read_bytes()
    assert not list(unpacked.rglob("node_modules"))
    assert (unpacked / "hatch_build.py").is_file()


@pytest.mark.slow
def test_the_wheel_has_the_page_and_nothing_of_its_sources(wheel: Path) -> None:
    """And it was made of the sdist without npm: the registry was out of reach."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "upwell/page/index.html" in names
    assert "upwell/page/index.html.br" in names
    assert "upwell/http/templates/style.css" in names
    assert not [name for name in names if name.startswith(("web/", "src/", "tests/"))]


@pytest.mark.slow
def test_the_wheel_serves_the_page_from_a_fresh_environment(
    wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = _installed(f"upwell[server,media] @ {wheel.as_uri()}", tmp_path / "venv")
    monkeypatch.setattr(tests.harness, "UPWELL", programs / "upwell")
    with Server(tmp_path / "data") as server:
        url = f"http://127.0.0.1:{server.port}"
        answer = httpx2.get(url, trust_env=False)
        refusal = httpx2.get(f"{url}/b/none", trust_env=False)
    assert answer.status_code == 200
    assert "/page/assets/" in answer.text
    assert (refusal.status_code, "no such bundle" in refusal.text) == (404, True)


_THERE_AND_BACK = """
import asyncio, io, json, os, sys
from importlib.metadata import distributions
from upwell import AsyncClient, Client

url, token = sys.argv[1:]
content = os.urandom(12_000_000)
with Client(url, token) as client:
    file, back = client.upload(content, name="there.bin"), io.BytesIO()
    assert client.download_to(file.id, back).verified
    assert back.getvalue() == content

async def again():
    async with AsyncClient(url, token) as client:
        return await client.upload(os.urandom(6_000_000), name="again.bin")

assert asyncio.run(again()).size == 6_000_000
print(json.dumps([each.metadata["Name"] for each in distributions()]))
"""


@pytest.mark.slow
def test_the_client_alone_pulls_none_of_the_server(wheel: Path, tmp_path: Path) -> None:
    """The wheel without extras, in an environment with nothing else in it."""
    programs = _installed(f"upwell @ {wheel.as_uri()}", tmp_path / "venv")
    with Server(tmp_path / "data") as server:
        url, token = f"http://127.0.0.1:{server.port}", token_of(server.data)
        done = _run(programs / "python", "-I", "-c", _THERE_AND_BACK, url, token)
        assert done.returncode == 0, done.stderr
        assert {file["name"] for file in server.api().files()} == {"there.bin", "again.bin"}
    installed = {canonicalize_name(name) for name in json.loads(done.stdout)}
    assert "upwell" in installed
    assert installed & _extras() <= {"httpcore2", "pydantic"}  # of httpx2, and of typer

    refused = _run(programs / "upwell", "serve", "--data", tmp_path / "data")
    assert refused.returncode == 2
    assert "pip install 'upwell[server]'" in refused.stderr


def _extras() -> set[str]:
    """Distributions that the server asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [each for extra in project["optional-dependencies"].values() for each in extra]
    names: set[str] = {canonicalize_name(Requirement(each).name) for each in wanted}
    assert {"fastapi", "sqlalchemy", "av"} <= names
    return names


@pytest.mark.slow
def test_a_registry_out_of_reach_is_told_in_a_sentence(unpacked: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(unpacked, changed)
    with (changed / "web/app/index.html").open("a") as file:
        file.write("<!-- changed -->")
    done = _uv("build", "--wheel", "--out-dir", tmp_path / "out", changed, env=OFFLINE)
    assert done.returncode != 0
    assert "npm could not install what the page is built from" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sources of a page, and a page that was built from them."""
    web, page, theme = (tmp_path / name for name in ("web", "page", "theme.css"))
    (web / "app" / "src").mkdir(parents=True)
    (web / "package.json").write_text("{}")
    (web / "app" / "src" / "main.ts").write_text("1")
    theme.write_text(":root {}")
    page.mkdir()
    monkeypatch.setattr(build_page, "WEB", web)
    monkeypatch.setattr(build_page, "THEME", theme)
    monkeypatch.setattr(build_page, "PAGE", page)
    monkeypatch.setattr(build_page, "_RECORD", page / ".sources")
    (page / ".sources").write_text(build_page.digest())
    return web


def test_a_page_is_current_until_its_sources_change(sources: Path) -> None:
    assert build_page.is_current()
    for made in ("node_modules/x/package.json", "app/node_modules/y.ts", "packages/c/dist/z.js"):
        (sources / made).parent.mkdir(parents=True)
        (sources / made).write_text("made")
    assert build_page.is_current()
    (sources / "app" / "src" / "main.ts").rename(sources / "app" / "src" / "other.ts")
    assert not build_page.is_current()


def test_another_package_of_the_page_s_makes_it_stale(sources: Path) -> None:
    (sources / "packages" / "c" / "src").mkdir(parents=True)
    (sources / "packages" / "c" / "src" / "index.ts").write_text("2")
    assert not build_page.is_current()


def test_the_theme_that_it_shares_with_the_server_makes_it_stale(sources: Path) -> None:
    build_page.THEME.write_text(":root { --accent: red }")
    assert not build_page.is_current()


def test_a_page_without_sources_is_taken_as_it_is(sources: Path) -> None:
    (sources / "package.json").unlink()
    assert not build_page.is_current()
    (build_page.PAGE / "index.html").write_text("<!doctype html>")
    assert build_page.is_current()
