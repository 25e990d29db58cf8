"""`dsocr tune`: a table of forms, the same as data; one sentence for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from vllm_dsocr.cli import main


def test_forms_are_timed_and_held_against_the_definition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "forms.json"
    arguments = ["--side", "256", "--device", "cpu", "--dtype", "float32", "--json", str(file)]
    assert main(["tune", *arguments]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert sum("fastest" in line for line in shown) == 2  # whole, and in windows
    trials = json.loads(file.read_text())
    assert {tuple(trial["shape"]) for trial in trials} == {(16, 0), (16, 14)}
    assert all(trial["seconds"] > 0 and trial["error"] < 1e-4 for trial in trials)


@pytest.mark.parametrize(
    "arguments, words",
    [(["--device", "abacus"], "abacus"), (["--dtype", "int8"], "must be one of bfloat16")],
)
def test_what_cannot_be_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", *arguments]) == 2
    assert words in capsys.readouterr().err
