"""`dsocr convert` against a real server gives what it gives with transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_dsocr.cli import main

pytest.importorskip("vllm", reason="pip install 'vllm-dsocr[cpu]' or [cuda]")
pytest.importorskip("openai", reason="pip install 'vllm-dsocr[client]'")

DATA = Path(__file__).parents[1] / "data"
FILES = [DATA / "images" / name for name in ("v3_small.png", "v5_rgba.png")]
SHORT = ["--task", "free", "--max-tokens", "8", "--retries", "1"]


def _pages(out: Path, *options: str) -> list[dict[str, Any]]:
    assert main(["convert", *map(str, FILES), "-o", str(out), *SHORT, *options]) == 0
    documents = (out / file.name / "document.json" for file in FILES)
    return [json.loads(path.read_text("utf-8"))["pages"][0] for path in documents]


@pytest.mark.parametrize("mode", [["--mode", "tiny"], []], ids=["tiny", "the model's default"])
def test_texts_and_counts_equal_those_of_transformers(
    tmp_path: Path, server_url: str, mode: list[str]
) -> None:
    served = _pages(tmp_path / "served", "--server", f"{server_url}/v1", *mode)
    model = str(DATA / "tiny-random")
    own = _pages(tmp_path / "own", "--engine", "hf", "--model", model, *mode)
    assert served == own
    assert all(page["num_vision_tokens"] for page in served)
    assert [attempt["rung"] for attempt in served[0]["attempts"]] == ["first", "guard"]
