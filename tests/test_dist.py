"""What `make dist` builds, installed where nothing else is: light, whole, and it converts."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.fake_server import fake_server

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "vllm")

pytestmark = pytest.mark.slow


def run(*command: object, **options) -> str:
    """stdout. The checkout is not on the path."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), env=environment, capture_output=True, text=True, **options
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The source distribution, and the wheel that is built from it and not from the checkout."""
    folder = tmp_path_factory.mktemp("dist")
    tree = folder / "tree"
    run("git", "-C", ROOT, "checkout-index", "--all", f"--prefix={tree}/")
    run(sys.executable, "setup.py", "-q", "sdist", "--dist-dir", folder, cwd=tree)
    (source,) = folder.glob("*.tar.gz")
    quiet = ("--quiet", "--no-deps", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *quiet, "--wheel-dir", folder, source)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def test_what_the_files_carry(dist):
    source, wheel = dist
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {"README.md", "LICENSE", "setup.py", "vllm_dsocr/plugin/setup/compat.py"}
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    web = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("vllm_dsocr/server/web/*.*")}
    assert len(web) >= 3 and names >= {*web, "vllm_dsocr/py.typed"}
    assert not [name for name in names if name.startswith(("tests/", "examples/"))]


def test_a_clean_environment_converts_against_a_server(dist, tmp_path):
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    run(python, "-m", "pip", "install", "--quiet", f"{dist[1]}[client,pdf]")
    installed = run(python, "-m", "pip", "list", "--format=freeze").lower()
    assert not [name for name in HEAVY if f"\n{name}==" in f"\n{installed}"]

    dsocr = python.with_name("dsocr")
    assert "convert" in run(dsocr, "--help", cwd=tmp_path)
    page = ROOT / "examples" / "page.png"
    Image.open(page).convert("RGB").save(tmp_path / "page.pdf")
    with fake_server() as server:
        command = ("convert", "page.pdf", "-o", "out", "--server", server.url)
        run(dsocr, *command, cwd=tmp_path)
    assert "# Page" in (tmp_path / "out" / "page.pdf" / "document.md").read_text()
