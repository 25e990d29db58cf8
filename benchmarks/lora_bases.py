"""LoRA of the bundled reader on a base in fp32, bf16 and 4 bit: error rates and peak memory.

    python -m benchmarks.lora_bases [--pages 200] [--epochs 4] [--held-out 32] [--out DIR]

From the repository's root. Pages, font and settings are those of `finetune_reader`; each base is
tuned in a process of its own, whose peak of resident memory is read from the kernel. The adapters
are read on the reader as it is stored. Prints a table and, as the last line, one JSON object: error
rates, each one's ratio to that of fp32, peak memory above the state before the run.
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
from vllm_dsocr.hf.engine import HfEngine
from vllm_dsocr.hf.training import read_samples
from vllm_dsocr.hf.training.lora import BASES


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


def measure(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    font = font_file(args.font)
    render(out / "train", args.pages, font, held_out=False)
    samples = read_samples(render(out / "held-out", args.held_out, font, held_out=True))
    untouched = asyncio.run(read(HfEngine(str(READER)), samples))
    result: dict[str, Any] = {"before": error_rate(untouched, samples)}
    for base in BASES:
        cost = tuned(base, out, args.epochs)
        texts = asyncio.run(read(AdaptedEngine(str(READER), out / base), samples))
        result |= {base: error_rate(texts, samples)}
        result |= {f"{base}_{name}": value for name, value in cost.items()}
        result[f"{base}_ratio"] = round(result[base] / max(result[BASES[0]], 1e-9), 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default="DejaVuSerif-Italic")
    parser.add_argument("--pages", type=positive, default=200, help="to train on")
    parser.add_argument("--held-out", type=positive, default=32, help="pages to read")
    parser.add_argument("--epochs", type=float, default=4)
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
    print(json.dumps({**settings, "epochs": args.epochs, **result, **machine()}))


if __name__ == "__main__":
    main()
