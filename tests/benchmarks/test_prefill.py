"""The prefill benchmark's model and clock, at the size of the tiny random checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("vllm")

from benchmarks.prefill import first_tokens, report, write_published
from benchmarks.preprocess import A4, MODEL, text_page
from tests.plugin.engines import start
from vllm_dsocr.config import MODES
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plan.sizes import ModelSizes


def test_the_written_model_has_the_published_sizes(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_published(folder)
    assert ModelSizes.from_file(folder) == ModelSizes()
    config = json.loads((folder / "config.json").read_text())
    assert config["language_config"]["vocab_size"] == config["vocab_size"] == 129_280
    assert not list(folder.glob("*.safetensors")) and (folder / "tokenizer.json").exists()


def test_every_page_gets_its_first_token() -> None:
    llm = start(MODEL)
    pages = [text_page(seed) for seed in range(2)]
    one, two = first_tokens(llm, pages[:1]), first_tokens(llm, pages)
    assert two["tokens"] == 2 * one["tokens"]
    assert one["tokens"] > plan_tiles(*A4, MODES["gundam"]).num_image_tokens
    assert one["seconds"] > 0


def test_ratios_are_ours_over_the_peers(capsys: pytest.CaptureFixture[str]) -> None:
    found = {"ours": {1: [3.0, 1.0, 2.0], 4: [6.0]}, "peer": {1: [4.0], 4: [12.0]}}
    result = report(found, {"ours": 1.0, "peer": 2.0})
    assert (result["ratio_1"], result["ratio_4"]) == (0.5, 0.5)
    assert result["peer_peak_gib"] == 2.0
    assert "0.500" in capsys.readouterr().out
