"""The examples as a user runs them, and what the bundled reader reads through each way in."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vllm_dsocr.metrics import character_error_rate

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
READER, PAGE = EXAMPLES / "reader", EXAMPLES / "page.png"
TRUTH = (EXAMPLES / "page.txt").read_text(encoding="utf-8").rstrip("\n")
READS = 0.03  # the character error rate a demonstration may have


def run(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_reads(text: str) -> None:
    assert character_error_rate(text.strip("\n"), TRUTH) <= READS, text


def test_demo_ends_with_a_good_figure() -> None:
    pytest.importorskip("vllm")
    lines = run(EXAMPLES / "demo.py").splitlines()
    figures = json.loads(lines[-1])
    assert figures["cer"] <= READS
    assert figures["seconds"] > 0


def test_transformers() -> None:
    out = run(EXAMPLES / "transformers_infer.py", PAGE, "--model", READER)
    text, _, statistics = out.partition("image size:")
    assert_reads(text)
    assert "valid image tokens: 100" in statistics


def test_offline_batch() -> None:
    pytest.importorskip("vllm")
    out = run(EXAMPLES / "offline.py", PAGE, PAGE, "--model", READER)
    texts = re.split(r"^--- .*\n", out, flags=re.MULTILINE)[1:]
    assert len(texts) == 2
    for text in texts:
        assert_reads(text)


def test_client(reader_url: str) -> None:
    out = run(EXAMPLES / "client.py", PAGE, PAGE, "--url", f"{reader_url}/v1")
    texts = re.split(r"^--- .*\n", out, flags=re.MULTILINE)[1:]
    assert len(texts) == 2
    for text in texts:
        assert_reads(text)


@pytest.mark.parametrize("name", ["offline.py", "client.py", "transformers_infer.py"])
def test_examples_are_short(name: str) -> None:
    assert len((EXAMPLES / name).read_text().splitlines()) < 40
