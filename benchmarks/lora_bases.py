"""LoRA of the bundled reader on a base in fp32, bf16 and 4 bit: error rates and peak memory.

    python -m benchmarks.lora_bases [--pages 200] [--epochs 4] [--held-out 32] [--forced]

From the repository's root. Pages, font and settings are those of `finetune_reader`; each base is
tuned in a process of its own, whose peak of resident memory is read from the kernel. The adapters
are read on the reader as it is stored. With --forced, which costs far less, pages are not read: the
model is asked for each character after the true ones before it. Prints a table and, as the last
line, one JSON object: error rates, each one's ratio to that of fp32, peak memory above the state
before the run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.bf16 import bf16_units
from benchmarks.finetune_reader import (
    LORA,
    LORA_RATE,
    AdaptedEngine,
    error_rate,
    font_file,
    read,
    render,
    tune,
)
from benchmarks.machine import forget_peak, headline, machine, resident
from examples.demo import READER
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.config import IGNORE_INDEX
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.engine import HfEngine
from vllm_dsocr.hf.model.loss import next_tokens
from vllm_dsocr.hf.training import PageCollator, PageDataset, Sample, read_samples
from vllm_dsocr.hf.training.lora import BASES, load_with_adapter


def tuned_here(base: str, out: Path, epochs: float) -> dict[str, float]:
    """Peak MiB above what is there before the run, and seconds."""
    forget_peak()
    before, start = resident("VmRSS"), time.perf_counter()
    with bf16_units():
        tune(out / "train", out / base, epochs, LORA_RATE, lora={**LORA, "base": base})
    seconds = round(time.perf_counter() - start, 1)
    return {"peak_mib": round((resident("VmHWM") - before) / 2**20), "seconds": seconds}


def tuned(base: str, out: Path, epochs: float) -> dict[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.lora_bases", "--base", base]
    command += ["--out", str(out), "--epochs", str(epochs)]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def forced_error_rate(adapter: Path | None, samples: list[Sample]) -> float:
    """Wrong next characters per character, each asked for after the true ones before it."""
    if adapter:
        model = load_with_adapter(adapter, str(READER))
    else:
        model = DeepseekOCRForCausalLM.from_pretrained(READER)
    model, processor = model.float().eval(), DeepseekOCRProcessor.from_pretrained(READER)
    dataset, collate = PageDataset(samples, processor), PageCollator(processor)
    wrong = total = 0
    for index in range(len(dataset)):
        batch = collate([dataset[index]])
        targets = next_tokens(batch.pop("labels"))
        counted = targets != IGNORE_INDEX
        with torch.inference_mode():
            likeliest = model(**batch, use_cache=False).logits.argmax(-1)
        wrong += int((likeliest != targets)[counted].sum())
        total += int(counted.sum())
    return round(wrong / total, 5)


def rate(adapter: Path | None, samples: list[Sample], forced: bool) -> float:
    """Of the reader with an adapter or as it is."""
    if forced:
        return forced_error_rate(adapter, samples)
    engine = AdaptedEngine(str(READER), adapter) if adapter else HfEngine(str(READER))
    return error_rate(asyncio.run(read(engine, samples)), samples)


def measure(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    font = font_file(args.font)
    render(out / "train", args.pages, font, held_out=False)
    samples = read_samples(render(out / "held-out", args.held_out, font, held_out=True))
    result: dict[str, Any] = {"before": rate(None, samples, args.forced)}
    for base in BASES:
        cost = tuned(base, out, args.epochs)
        result |= {base: rate(out / base, samples, args.forced)}
        result |= {f"{base}_{name}": value for name, value in cost.items()}
        result[f"{base}_ratio"] = round(result[base] / max(result[BASES[0]], 1e-9), 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default="DejaVuSerif-Italic")
    parser.add_argument("--pages", type=positive, default=200, help="to train on")
    parser.add_argument("--held-out", type=positive, default=32, help="pages to read")
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--forced", action="store_true", help="ask for characters one by one")
    parser.add_argument("--out", type=Path, help="keep pages and adapters here")
    parser.add_argument("--base", choices=BASES, help="tune on this one, here")
    args = parser.parse_args()
    if args.base:
        print(json.dumps(tuned_here(args.base, args.out, args.epochs)))
        return
    result = measure(args, args.out or Path(tempfile.mkdtemp(prefix="dsocr-")))
    print(f"{headline()}\n{args.font}, {args.pages} pages, {args.held_out} held out")
    print(f"{'base':>9} {'error rate':>10} {'to fp32':>8} {'peak MiB':>9} {'seconds':>8}")
    print(f"{'untouched':>9} {result['before']:>10.4f}")
    for base in BASES:
        ratio, peak = result[f"{base}_ratio"], result[f"{base}_peak_mib"]
        seconds = result[f"{base}_seconds"]
        print(f"{base:>9} {result[base]:>10.4f} {ratio:>8.3f} {peak:>9} {seconds:>8.0f}")
    settings = {"font": args.font, "pages": args.pages, "held_out": args.held_out}
    settings["forced"] = args.forced
    print(json.dumps({**settings, "epochs": args.epochs, **result, **machine()}))


if __name__ == "__main__":
    main()
