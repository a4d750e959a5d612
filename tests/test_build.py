"""What `pip install` does with a checkout, an sdist and a wheel: the page comes along."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import httpx2
import pytest

import tests.harness
from tests.harness import Server
from web import build_page

ROOT = Path(__file__).parents[1]
UV = Path(sys.executable).with_name("uv")
OFFLINE = {"npm_config_registry": "http://127.0.0.1:9", "npm_config_fetch_retries": "0"}


def _uv(
    *arguments: str | Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [UV, *arguments],
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def _built(kind: str, source: Path, folder: Path) -> Path:
    """An archive of the package, made where npm reaches no registry unless it is the first."""
    done = _uv("build", f"--{kind}", "--out-dir", folder, source)
    assert done.returncode == 0, done.stderr
    return next(path for path in folder.iterdir() if path.suffix in (".gz", ".whl"))


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
    environment = tmp_path / "venv"
    assert _uv("venv", "-q", "--python", sys.executable, environment).returncode == 0
    python = environment / "bin" / "python"
    wanted = f"upwell[server,media] @ {wheel.as_uri()}"
    done = _uv("pip", "install", "-q", "--python", python, "-c", ROOT / "constraints.txt", wanted)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr(tests.harness, "UPWELL", environment / "bin" / "upwell")
    with Server(tmp_path / "data") as server:
        url = f"http://127.0.0.1:{server.port}"
        answer = httpx2.get(url, trust_env=False)
        refusal = httpx2.get(f"{url}/b/none", trust_env=False)
    assert answer.status_code == 200
    assert "/page/assets/" in answer.text
    assert (refusal.status_code, "no such bundle" in refusal.text) == (404, True)


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
