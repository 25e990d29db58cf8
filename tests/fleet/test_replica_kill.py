"""Two real servers of the bundled reader behind one gateway; one is killed under load."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="pip install 'vllm-dsocr[cpu]' or [cuda]")

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_request_that_can_be_repeated_is_lost():
    command = [sys.executable, "-m", "benchmarks.replicas", "--requests", "36", "--clients", "6"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and result["lost"] == 0, result["troubles"]
    assert result["requests"] == 36 and result["replicas_ready"] == 1
    assert result["answered"]["chat"] == result["answered"]["ocr"] == 12
    assert result["answered"].get("stream", 0) + result["broken_streams"] == 12
    assert all(result[phase]["count"] for phase in ("before", "during", "after"))
    assert result["cer"] < 0.1 + result["broken_streams"] / 36
