"""The fine-tuning example on the tiny checkpoint, as a person would run it."""

import importlib.util
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parent.parent.parent
TINY = ROOT / "tests" / "data" / "tiny-random"


def test_it_trains_saves_and_reads(tmp_path, monkeypatch, capsys):
    Image.effect_noise((90, 60), 60).save(tmp_path / "page.png")
    (tmp_path / "page.md").write_text("some text")
    file = ROOT / "examples" / "finetune.py"
    assert len(file.read_text().splitlines()) < 60
    spec = importlib.util.spec_from_file_location("finetune", file)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    out = tmp_path / "out"
    arguments = [str(tmp_path), "--model", str(TINY), "--mode", "tiny", "--output", str(out)]
    monkeypatch.setattr("sys.argv", ["finetune.py", *arguments, "--epochs", "1"])
    example.main()
    assert "'loss'" in capsys.readouterr().out
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {p.name for p in out.iterdir()}
