"""What the encoder asks of a GPU, counted on the meta device, beside vLLM's own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("vllm")


@pytest.mark.slow
def test_a_page_takes_fewer_launches_and_bytes_than_in_vllms_own_encoder() -> None:
    command = [sys.executable, "-m", "benchmarks.encoder_static", "--pages", "8"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    counted = json.loads(done.stdout.splitlines()[-1])
    assert counted["launch_ratio"] <= 0.5
    assert counted["bytes_ratio"] <= 0.8
    assert counted["flops_ratio"] <= 1.0
