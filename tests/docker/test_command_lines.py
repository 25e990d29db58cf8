"""The chart's command lines, run as they are rendered: server and gateway answer.

In namespaces of their own, so that their fixed ports are free, /opt/reader is the bundled reader
and the service's name leads to the server. Needs root.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("helm_python", reason="make test-containers installs it")

from examples.demo import LINES, READER
from tests.docker.test_chart import CHART, rendered, values_of
from vllm_dsocr.metrics import edit_distance

ROOT = Path(__file__).parents[2]
# The loop is up before the programs start; $1 is the folder of this run.
ENTER = """
set -e
mount -t tmpfs tmpfs /opt
ln -s "$READER" /opt/reader
mount --bind "$1/hosts" /etc/hosts
exec "$PYTHON" -m tests.docker.command_lines "$1"
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root for namespaces of its own"),
]


def entrypoint(dockerfile: str) -> list[str]:
    text = (ROOT / "docker" / dockerfile).read_text()
    (line,) = (line for line in text.splitlines() if line.startswith("ENTRYPOINT"))
    return json.loads(line.removeprefix("ENTRYPOINT"))


def command(documents: list[dict[str, Any]], component: str, dockerfile: str) -> list[str]:
    """What the kubelet would run: the image's entry point and the chart's arguments."""
    (deployment,) = (
        d
        for d in documents
        if d["kind"] == "Deployment" and d["metadata"]["name"].endswith(component)
    )
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return [*entrypoint(dockerfile), *container["args"]]


def test_server_and_gateway_of_the_chart_answer(tmp_path):
    assert CHART.exists()
    documents = rendered(values_of("values-cpu.yaml"))
    commands = {
        "model": command(documents, "model", "Dockerfile.cpu"),
        "gateway": command(documents, "gateway", "Dockerfile.gateway"),
    }
    (tmp_path / "commands.json").write_text(json.dumps(commands))
    (tmp_path / "hosts").write_text("127.0.0.1 localhost try-dsocr-model\n")
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "PYTHONPATH": str(ROOT),
        "READER": str(READER),
        "VLLM_CPU_KVCACHE_SPACE": "1",
    }
    inside = ["unshare", "--mount", "--net", "sh", "-c", ENTER, "sh", str(tmp_path)]
    done = subprocess.run(
        inside, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1700
    )
    assert done.returncode == 0, shlex.join(commands["model"]) + done.stdout[-3000:] + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    printed = LINES.truth.read_text(encoding="utf-8").strip()
    assert edit_distance(result["chat"].strip(), printed) <= 0.05 * len(printed)
    assert result["ocr"] == "ok" and result["ready"] == [200, 200]
    assert result["missing"] == []  # metrics that the dashboard or a rule names
    assert result["values"] > 10
