"""Fine-tune the bundled reader on a font it misreads, in full and by LoRA, and serve the results.

    python -m benchmarks.finetune_reader [--font DejaVuSerif-Italic] [--epochs 4] [--out DIR]

From the repository's root. Renders pages to train on and pages with other words to be read, tunes
the whole model and then adapters through `dsocr train`'s own settings. The checkpoint is served by
`vllm serve`; the adapter is loaded into a running server of the untouched reader and unloaded. Both
read the held-out pages, and so does transformers, all in fp32 and under the same repetition guard.
Prints a table and, as the last line, one JSON object: error rates, their ratio to that before, and
how many texts are the same. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import openai
from PIL import Image, ImageDraw, ImageFont

from benchmarks.machine import headline, machine
from examples.demo import READER, served
from examples.reader_training.words import word_stream
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.engine import Engine, Request, clean_text
from vllm_dsocr.hf.engine import HfEngine
from vllm_dsocr.hf.training import Sample, read_samples, train
from vllm_dsocr.hf.training.lora import load_with_adapter
from vllm_dsocr.hf.training.settings import settings_from
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.source import open_image
from vllm_dsocr.server_engine import ServerEngine

SIDE, SIZES, LINES, WORDS = 640, range(26, 35), range(3, 9), range(3, 6)
BATCH = 4
FULL_RATE, LORA_RATE = 3e-4, 2e-3
LORA = {"rank": 32, "alpha": 64}  # on what vLLM's CPU build can load: no experts, no vision
SERVER = ("--dtype", "float32", "--enforce-eager")
ADAPTER = "tuned"


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
        face = ImageFont.truetype(font, rng.choice(SIZES))
        fitting = [line for line in lines if face.getlength(line) < SIDE - 40]
        text = "\n".join(fitting) or "none"
        image = Image.new("L", (SIDE, SIDE), rng.randint(220, 255))
        ImageDraw.Draw(image).multiline_text((20, 20), text, rng.randint(0, 60), face, spacing=8)
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(text, encoding="utf-8")
    return folder


def tune(data: Path, output: Path, epochs: float, rate: float, **more: Any) -> None:
    """What `dsocr train` does with these settings."""
    trainer = {
        "num_train_epochs": epochs,
        "learning_rate": rate,
        "per_device_train_batch_size": BATCH,
        "train_sampling_strategy": "group_by_length",
        "lr_scheduler_type": "cosine",
        "warmup_steps": 10,
        "max_grad_norm": 1.0,
        "save_strategy": "no",
        "seed": 1,
    }
    values = {"model": str(READER), "data": str(data), "output": str(output), "trainer": trainer}
    train(settings_from({**values, **more}))


class AdaptedEngine(HfEngine):
    """transformers with an adapter on the checkpoint."""

    def __init__(self, model: str, adapter: Path) -> None:
        super().__init__(model)
        self._adapter = adapter

    def _load(self) -> None:
        super()._load()
        self._model = load_with_adapter(self._adapter, self.model).float().eval()


async def read(engine: Engine, samples: Sequence[Sample]) -> list[str]:
    """Greedy texts; one that does not end is cut at twice the length of the truth."""
    async with engine:
        slots = asyncio.Semaphore(engine.max_in_flight)

        async def one(sample: Sample) -> str:
            async with slots:
                limit = 2 * len(sample.answer) + 1  # a token of the reader is a character
                page = open_image(sample.images[0])
                answer = await engine.complete(Request(page, sample.prompt, max_tokens=limit))
                return clean_text(answer.text)

        return await asyncio.gather(*map(one, samples))


async def read_served(url: str, samples: Sequence[Sample], model: str | None = None) -> list[str]:
    """What a server's first model answers, or the one named."""
    return await read(await ServerEngine.connect(url, model), samples)


def from_checkpoint(checkpoint: Path, samples: Sequence[Sample]) -> list[str]:
    with served(checkpoint, *SERVER) as url:
        return asyncio.run(read_served(url, samples))


def from_loaded_adapter(adapter: Path, samples: Sequence[Sample]) -> dict[str, list[str]]:
    """The reader before, with and after an adapter that comes while the server runs, and goes."""
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    flags = ("--enable-lora", "--max-lora-rank", str(LORA["rank"]))
    with served(READER, *SERVER, *flags) as url:
        client = openai.OpenAI(base_url=url, api_key="none")
        before = asyncio.run(read_served(url, samples))
        body = {"lora_name": ADAPTER, "lora_path": str(adapter.resolve())}
        client.post("/load_lora_adapter", cast_to=str, body=body)
        tuned = asyncio.run(read_served(url, samples, ADAPTER))
        client.post("/unload_lora_adapter", cast_to=str, body={"lora_name": ADAPTER})
        return {"before": before, "lora": tuned, "after": asyncio.run(read_served(url, samples))}


def error_rate(texts: Sequence[str], samples: Sequence[Sample]) -> float:
    """Wrong characters per character."""
    pairs = list(zip(texts, samples, strict=True))
    wrong = sum(edit_distance(text, sample.answer) for text, sample in pairs)
    return round(wrong / sum(len(sample.answer) for sample in samples), 5)


def same(texts: Sequence[str], others: Sequence[str]) -> int:
    return sum(one == other for one, other in zip(texts, others, strict=True))


def measure(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Tunes twice, serves twice, reads with both hosts."""
    font = font_file(args.font)
    data = render(out / "train", args.pages, font, held_out=False)
    samples = read_samples(render(out / "held-out", args.held_out, font, held_out=True))
    tune(data, out / "full", args.epochs, FULL_RATE)
    tune(data, out / "lora", args.epochs, LORA_RATE, lora=LORA)
    adapter = from_loaded_adapter(out / "lora", samples)
    full = from_checkpoint(out / "full", samples)
    full_hf = asyncio.run(read(HfEngine(str(out / "full")), samples))
    lora_hf = asyncio.run(read(AdaptedEngine(str(READER), out / "lora"), samples))
    rates = {
        "before": error_rate(adapter["before"], samples),
        "full": error_rate(full, samples),
        "lora": error_rate(adapter["lora"], samples),
    }
    before = rates["before"]
    ratios = {f"{name}_ratio": round(rates[name] / before, 4) for name in ("full", "lora")}
    equal = {
        "full_same": same(full, full_hf),
        "lora_same": same(adapter["lora"], lora_hf),
        "reader_same_after_unloading": same(adapter["before"], adapter["after"]),
    }
    return {**rates, **ratios, **equal}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default="DejaVuSerif-Italic")
    parser.add_argument("--pages", type=positive, default=200, help="to train on")
    parser.add_argument("--held-out", type=positive, default=32, help="pages to read")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--out", type=Path, help="keep pages and checkpoints here")
    args = parser.parse_args()
    start = time.perf_counter()
    result = measure(args, args.out or Path(tempfile.mkdtemp(prefix="dsocr-")))
    seconds = round(time.perf_counter() - start, 1)
    print(f"{headline()}\n{args.font}, {args.pages} pages, {args.held_out} held out, {seconds} s")
    print(f"{'':>8} {'error rate':>10} {'to before':>10} {'texts as transformers':>22}")
    print(f"{'before':>8} {result['before']:>10.4f}")
    for name in ("full", "lora"):
        ratio, equal = result[f"{name}_ratio"], f"{result[f'{name}_same']} of {args.held_out}"
        print(f"{name:>8} {result[name]:>10.4f} {ratio:>10.3f} {equal:>22}")
    settings = {"font": args.font, "pages": args.pages, "held_out": args.held_out}
    print(json.dumps({**settings, **result, "seconds": seconds, **machine()}))


if __name__ == "__main__":
    main()
