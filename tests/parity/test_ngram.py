"""Bans of the official processor: 150 sequences under 16 settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_dsocr.repetition import NGramGuard, rule_from_options


@pytest.fixture(scope="module")
def recorded(parity_data: Path) -> dict[str, Any]:
    path = parity_data / "golden" / "ngram.json"
    if not path.exists():
        pytest.skip(f"no {path}")
    return json.loads(path.read_text())


def official(banned: Any) -> list[int]:
    """The official bans where the record tells them apart from vLLM's."""
    return banned["official"] if isinstance(banned, dict) else banned


def test_bans_are_the_official_ones(recorded: dict[str, Any]) -> None:
    checked = 0
    for case in recorded["cases"]:
        for options, banned in zip(recorded["combos"], case["banned"], strict=True):
            guard = NGramGuard(rule_from_options(options), case["ids"])
            assert sorted(guard.banned()) == official(banned), (options, case["ids"])
            checked += 1
    assert checked == len(recorded["cases"]) * len(recorded["combos"]) > 0


def test_no_options_ban_nothing(recorded: dict[str, Any]) -> None:
    assert rule_from_options({}) is None
    assert (
        rule_from_options({"ngram_size": 2}).window
        == recorded["defaults"]["official"]["window_size"]
    )
