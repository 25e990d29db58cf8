"""Container files as far as they can be checked without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
DOCKERFILES = sorted(DOCKER.glob("Dockerfile*"))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_a_container_serves_as_a_user_without_rights(path):
    text = path.read_text()
    assert "USER 10001:10001" in text and "HEALTHCHECK" in text
    images = re.findall(r"^FROM (\S+)|^ARG \w+_IMAGE=(\S+)", text, re.MULTILINE)
    for image in (a or b for a, b in images):
        assert "$" in image or re.search(r":[^:]*\d", image), f"{image} has no version"
    for script in re.findall(r"/src/(docker/scripts/[\w.-]+)", text):
        assert (ROOT / script).exists(), script
    hadolint = shutil.which("hadolint")
    if hadolint:
        subprocess.run([hadolint, path], check=True)


def test_scripts_are_sound_shell():
    for script in DOCKER.glob("scripts/*.sh"):
        subprocess.run(["sh", "-n", script], check=True)
        assert os.access(script, os.X_OK), script


def test_compose_names_files_and_volumes_that_are_there():
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        if "build" in service:
            assert (DOCKER / service["build"]["context"] / service["build"]["dockerfile"]).exists()
            assert service["read_only"] and service["cap_drop"] == ["ALL"], name
        elif "image" in service:
            assert re.search(r":[^:]*\d", service["image"]), name
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            there = (DOCKER / source).exists() if source.startswith(".") else False
            assert there or source in compose["volumes"], volume


def test_the_health_check_knows_a_server_that_answers_from_one_that_does_not():
    script = DOCKER / "scripts" / "healthcheck.py"
    done = subprocess.run([sys.executable, script], env={**os.environ, "PORT": "1"})
    assert done.returncode == 1


@pytest.mark.slow
def test_the_gateway_image_installs_without_torch(tmp_path):
    """The step of docker/Dockerfile.gateway, in a clean virtual environment."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    script = DOCKER / "scripts" / "install-package.sh"
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), "HOME": str(tmp_path)}
    extras = "server,client,pdf,postgres"
    subprocess.run([script, ROOT, extras], check=True, env=environment)
    code = "import importlib.util as u; assert not any(map(u.find_spec, ['torch', 'vllm']))"
    subprocess.run([python, "-c", code], check=True, cwd=tmp_path)
    dsocr = python.with_name("dsocr")
    done = subprocess.run([dsocr, "gateway", "--help"], check=True, capture_output=True, text=True)
    assert "--server" in done.stdout


@pytest.mark.slow
def test_the_sbom_lists_what_is_installed_and_not_the_tool(tmp_path):
    file = tmp_path / "sbom.json"
    subprocess.run([DOCKER / "scripts" / "make-sbom.sh", sys.executable, file], check=True)
    bom = json.loads(file.read_text())
    listed = {part["name"].lower(): part["version"] for part in bom["components"]}
    assert bom["bomFormat"] == "CycloneDX"
    assert listed["pillow"] == version("pillow") and listed["torch"] == version("torch")
    assert "cyclonedx-bom" not in listed


def test_what_the_extras_ask_for_can_be_had_together():
    """docling-core bounds typer from above; a package that asks for more cannot be installed."""
    (theirs,) = (
        r for r in map(Requirement, requires("docling-core")) if r.name == "typer" and not r.marker
    )
    (ours,) = re.findall(r'"typer>=([\d.]+)"', (ROOT / "setup.py").read_text())
    assert theirs.specifier.contains(ours)
