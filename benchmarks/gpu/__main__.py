"""Checks and times on one GPU what of this package can run there; under 8 minutes.

    python -m benchmarks.gpu [--report benchmarks/results/gpu.md] [--only encoder loss]
    python -m benchmarks.gpu --device cpu --small     # the same code in seconds, sizes of a toy

Needs torch, numpy and Pillow. The loss also needs transformers, the last part vLLM; a part that
finds its package missing says so. Prints a table, the ceilings that shares refer to and, as the
last line, one JSON object. Exits with 1 when a result is wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.gpu import attention, encoder, engine, guard, intree, loss, parity, pixels, report
from benchmarks.gpu.bench import Bench, Row
from benchmarks.machine import headline, machine

# In this order: what could leave a device in a bad state comes last.
PARTS = {
    "parity": parity.run,
    "pixels": pixels.run,
    "guard": guard.run,
    "engine": engine.run,
    "loss": loss.run,
    "attention": attention.run,
    "encoder": encoder.run,
    "intree": intree.run,
}


def main(argv: Sequence[str] | None = None) -> int:
    args = parse(argv)
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.manual_seed(0)
    bench = Bench(torch.device(args.device), args.small)
    print(headline())
    facts = ceilings(bench)
    print(report.line())
    rows = []
    for row in measured(bench, args.only):
        rows.append(row)
        print(report.line(row), flush=True)
    facts["seconds"] = round(time.perf_counter() - bench.started)
    result = report.as_json(rows, {"machine": machine(), "device": args.device, **facts})
    if args.report:
        command = " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if argv is None else argv)])
        about = f"`{command}`, {headline()}; {sentence(facts)}"
        report.write(args.report, rows, "What a GPU makes of it", [about])
    print(sentence(facts))
    print(json.dumps(result))
    return 0 if result["ok"] else 1


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--small", action="store_true", help="sizes of a toy")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--report", type=Path, help="write the table there as Markdown")
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit(
            "No CUDA device here; --device cpu --small runs the same code in toy sizes."
        )
    return args


def ceilings(bench: Bench) -> dict[str, float]:
    return {"matrix_tflops": bench.flops / 1e12, "bandwidth_gbs": bench.bandwidth / 1e9}


def sentence(facts: dict[str, float]) -> str:
    return (
        f"peak: {facts['matrix_tflops']:.3g} TFLOP/s of a bf16 matrix product, "
        f"{facts['bandwidth_gbs']:.3g} GB/s of a copy; {facts['seconds']} s in all"
    )


def measured(bench: Bench, parts: Sequence[str]) -> Iterator[Row]:
    """Rows of the parts; one that fails is a wrong row and does not stop the others."""
    for name in parts:
        try:
            yield from PARTS[name](bench)
        except RuntimeError as error:  # out of memory, a kernel that does not run here
            note = encoder.first_line(error)
            yield Row(f"{name}: failed", error=float("inf"), allowed=0, note=note)
        bench.clear()


if __name__ == "__main__":
    sys.exit(main())
