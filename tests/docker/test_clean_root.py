"""What the Dockerfiles do, in a Debian made from nothing, without a network where one is promised.

The slow tests need root, debootstrap and the package registries; `make test-containers` runs them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from PIL import Image

from benchmarks.serving import data_url
from examples.demo import LINES, free_port
from tests.docker import clean_root
from tests.fake_server import fake_server
from vllm_dsocr.metrics import edit_distance

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "docker" / "scripts"
VENV = "/opt/dsocr"
CPU_VENV = "/opt/dsocr-cpu"
EXTRAS = "server,client,pdf,postgres"
NO_TORCH = "import importlib.util as u; assert not any(map(u.find_spec, ['torch', 'vllm']))"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not clean_root.is_possible(), reason="needs root and debootstrap"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base system with the checkout in /src, as COPY leaves it; DSOCR_CLEAN_ROOT names one."""
    folder = Path(os.environ.get("DSOCR_CLEAN_ROOT") or tmp_path_factory.mktemp("root"))
    if not (folder / "usr/bin/python3").exists():
        clean_root.make_root(folder)
    folder.chmod(0o755)  # it becomes / of a user without rights; pytest's folders are root's alone
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    shutil.rmtree(folder / "src", ignore_errors=True)
    for name in filter(None, files):
        target = folder / "src" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    clean_root.run(folder, "/src/docker/scripts/add-user.sh")
    return folder


@pytest.fixture(scope="module")
def wheels(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheelhouse of the gateway, made where there is a network, in the root's /wheels."""
    folder = root / "wheels"
    if not any(folder.glob("vllm_dsocr-*.whl")):
        script = SCRIPTS / "make-wheelhouse.sh"
        environment = {**os.environ, "PYTHON": sys.executable}
        subprocess.run([script, folder, EXTRAS], check=True, env=environment)
    return folder


@pytest.fixture(scope="module")
def installed(root: Path, wheels: Path) -> Path:
    """The gateway, installed from the wheelhouse without a network."""
    shutil.rmtree(root / VENV[1:], ignore_errors=True)
    clean_root.run(root, "python3", "-m", "venv", VENV)
    (wheel,) = wheels.glob("vllm_dsocr-*.whl")
    clean_root.run(
        root,
        *("/src/docker/scripts/install-package.sh", f"/wheels/{wheel.name}", EXTRAS),
        offline=True,
        WHEELHOUSE="/wheels",
        PYTHON=f"{VENV}/bin/python",
    )
    return root


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    pytest.fail(log.read_text()[-3000:], pytrace=False)


def test_the_gateway_is_installed_without_a_network_and_without_torch(installed):
    clean_root.run(installed, f"{VENV}/bin/python", "-c", NO_TORCH, offline=True)
    text = clean_root.run(installed, f"{VENV}/bin/dsocr", "gateway", "--help", offline=True)
    assert "--server" in text


def test_the_gateway_serves_as_a_user_without_rights_on_a_read_only_root(installed, tmp_path):
    port, log = free_port(), tmp_path / "log"
    with fake_server() as server:
        command = ("dsocr", "gateway", "--host", "127.0.0.1", "--port", str(port))
        variables = {"DSOCR_DATA": "/data/dsocr", "PORT": str(port)}
        with clean_root.served(
            installed, *command, "--server", server.url, log=log, variables=variables
        ) as process:
            wait_for(f"http://127.0.0.1:{port}/readyz", process, log, 120)
            page = data_url(Image.new("RGB", (300, 200), "white"))
            document = {"type": "image_url", "image_url": page}
            answer = httpx.post(
                f"http://127.0.0.1:{port}/v1/ocr", json={"document": document}, timeout=120
            )
            assert "# Page" in answer.json()["pages"][0]["markdown"], answer.text
            listed = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()
            assert listed["data"][0]["id"] == "fake-reader"
            health = [sys.executable, SCRIPTS / "healthcheck.py"]
            assert subprocess.run(health, env={**os.environ, "PORT": str(port)}).returncode == 0
            status = Path(f"/proc/{process.pid}/status").read_text()
            assert "Uid:\t10001" in status
    assert (installed / "data/dsocr").stat().st_uid == 10001


@pytest.fixture(scope="module")
def cpu_server(root: Path) -> Path:
    """docker/Dockerfile.cpu's steps, from a wheelhouse of pinned packages, without a network."""
    wheels = root / "wheels-cpu"
    if not any(wheels.glob("vllm_dsocr-*.whl")):
        script = SCRIPTS / "make-wheelhouse.sh"
        environment = {**os.environ, "PYTHON": sys.executable}
        subprocess.run([script, wheels, "cpu"], check=True, env=environment)
    shutil.copytree(ROOT / "examples/reader", root / "opt/reader", dirs_exist_ok=True)
    if not (root / CPU_VENV[1:] / "bin/dsocr").exists():
        script = "/src/docker/scripts/install-cpu.sh"
        clean_root.run(root, script, "/src", CPU_VENV, offline=True, WHEELHOUSE="/wheels-cpu")
    return root


def test_the_cpu_image_serves_the_reader_to_whoever_asks(cpu_server, tmp_path):
    port, log = free_port(), tmp_path / "log"
    command = (f"{CPU_VENV}/bin/dsocr", "serve", "/opt/reader", "--host", "127.0.0.1")
    variables = {
        "DSOCR_DATA": "/data/dsocr",
        "XDG_CACHE_HOME": "/data/cache",
        "VLLM_CACHE_ROOT": "/data/cache/vllm",
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    url = f"http://127.0.0.1:{port}"
    with clean_root.served(
        cpu_server, *command, "--port", str(port), log=log, variables=variables
    ) as process:
        wait_for(f"{url}/readyz", process, log, 900)
        page = data_url(Image.open(LINES.page).convert("RGB"))
        body = {"document": {"type": "image_url", "image_url": page}, "task": "free"}
        answer = httpx.post(f"{url}/v1/ocr", json=body, timeout=600).json()["pages"][0]
    truth = LINES.truth.read_text()
    assert edit_distance(answer["markdown"].strip(), truth.strip()) < 0.1 * len(truth)
