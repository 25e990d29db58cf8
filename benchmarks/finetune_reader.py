"""Fine-tune the bundled reader on a font it was not made for: error rates before and after.

    python -m benchmarks.finetune_reader [--font STIXGeneralItalic] [--epochs 6] [--out DIR]

From the repository's root. Renders 200 pages to train on and 32 with other words to be read, tunes
the whole model and then adapters on all parts, through `dsocr train`'s own settings. Prints a table
and, as the last line, one JSON object. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont

from examples.reader_training.words import word_stream
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.data import Sample, read_samples
from vllm_dsocr.hf.lora import LORA_PARTS, load_with_adapter
from vllm_dsocr.hf.train_settings import settings_from
from vllm_dsocr.hf.training import read_pages, train
from vllm_dsocr.metrics import edit_distance

READER = Path(__file__).parent.parent / "examples" / "reader"
SIDE, SIZES, LINES, WORDS = 640, range(26, 35), range(3, 9), range(3, 6)
BATCH = 4


def font_file(name: str) -> Path:
    """One of the fonts that come with matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"


def render(folder: Path, count: int, font: Path, held_out: bool) -> Path:
    """`count` pages and their texts; held-out pages have words and seeds of their own."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = Random(number + 1_000_000 * held_out)
        words = word_stream(rng, held_out)
        lines = [" ".join(islice(words, rng.choice(WORDS))) for _ in range(rng.choice(LINES))]
        size = rng.choice(SIZES)
        image = Image.new("L", (SIDE, SIDE), rng.randint(220, 255))
        face = ImageFont.truetype(font, size)
        fitting = [line for line in lines if face.getlength(line) < SIDE - 40]
        text = "\n".join(fitting) or "none"
        ImageDraw.Draw(image).multiline_text((20, 20), text, rng.randint(0, 60), face, spacing=8)
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def error_rate(model: torch.nn.Module, samples: list[Sample]) -> float:
    """Wrong characters per character, read in fp32."""
    processor = DeepseekOCRProcessor.from_pretrained(READER)
    edits = 0
    for start in range(0, len(samples), BATCH):
        batch = samples[start : start + BATCH]
        texts = read_pages(model.float().eval(), processor, batch)
        edits += sum(edit_distance(t, s.answer) for t, s in zip(texts, batch, strict=True))
    return edits / sum(len(sample.answer) for sample in samples)


def tune(data: Path, output: Path, epochs: float, rate: float, **more: Any) -> None:
    trainer = {
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": BATCH,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "max_grad_norm": 1.0,
        "save_strategy": "no",
        "seed": 1,
    }
    values = {"model": str(READER), "data": str(data), "output": str(output), "trainer": trainer}
    train(settings_from({**values, **more}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default="STIXGeneralItalic")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--out", type=Path, help="keep pages and checkpoints here")
    args = parser.parse_args()
    out, font = args.out or Path(tempfile.mkdtemp(prefix="dsocr-")), font_file(args.font)
    data = render(out / "train", 200, font, held_out=False)
    samples = read_samples(render(out / "held-out", 32, font, held_out=True))
    start = time.perf_counter()
    rates = {"before": error_rate(DeepseekOCRForCausalLM.from_pretrained(READER), samples)}
    tune(data, out / "full", args.epochs, 3e-4)
    rates["full"] = error_rate(DeepseekOCRForCausalLM.from_pretrained(out / "full"), samples)
    lora = {"rank": 16, "alpha": 32, "parts": list(LORA_PARTS)}
    tune(data, out / "lora", args.epochs, 2e-3, lora=lora)
    rates["lora"] = error_rate(load_with_adapter(out / "lora", str(READER)), samples)
    print(f"{'held-out pages':>16} {'error rate':>10}")
    for name, rate in rates.items():
        print(f"{name:>16} {rate:>10.4f}")
    ratios = {f"{name}_ratio": rates[name] / rates["before"] for name in ("full", "lora")}
    seconds = round(time.perf_counter() - start, 1)
    print(json.dumps({"font": args.font, **rates, **ratios, "seconds": seconds}))


if __name__ == "__main__":
    main()
