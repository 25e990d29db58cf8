"""`dsocr train` before the first step: what is wrong is said in one line, with exit code 2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("peft")

from vllm_dsocr.cli import main

TINY = Path(__file__).parent.parent / "data" / "tiny-random"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [", "not YAML"),
        ("data: pages", "'output' is missing"),
        ("{data: pages, output: out, lora: {rank: 0}}", "lora.rank must be a positive integer"),
        (f"{{data: none.jsonl, output: out, model: {TINY}}}", "cannot read none.jsonl"),
    ],
)
def test_a_configuration_that_cannot_be(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    assert main(["train", "config.yaml"]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_data_is_looked_through_without_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = "<|ref|>text<|/ref|><|det|>[[0, 1, 500, 999]]<|/det|>\nwords"
    lines = [
        {"prompt": "p", "answer": good},
        {"prompt": "p", "answer": good.replace("999", "1999")},
        {"prompt": "p", "answer": good.replace("<|/det|>", "")},
        {"image": "none.png", "answer": "x"},
        {"prompt": "p", "answer": " "},
    ]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    config = tmp_path / "config.yaml"
    values = f"model: {TINY}\ndata: {tmp_path / 'data.jsonl'}\noutput: {tmp_path / 'out'}"
    config.write_text(values)
    assert main(["train", str(config), "--check"]) == 1
    printed = capsys.readouterr().out
    assert "kept 4 of 5: 1 cannot open" in printed
    for number in (2, 3):
        assert f"sample {number}: 1 grounding tags, 0 of them well formed" in printed
    assert "sample 5: the answer is empty" in printed and "sample 1:" not in printed
    assert not (tmp_path / "out").exists()

    (tmp_path / "data.jsonl").write_text(json.dumps(lines[0]))
    assert main(["train", str(config), "--check"]) == 0
