"""`dsocr train` before the first step: what is wrong is said in one line, with exit code 2."""

from __future__ import annotations

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
