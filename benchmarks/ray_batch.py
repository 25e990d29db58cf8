"""Pages per second of `dsocr convert --ray` with one worker and with two, on a cluster of its own.

    python -m benchmarks.ray_batch [--pages 300] [--model PATH] [--report FILE]

transformers reads, by default a random checkpoint so small that what is timed is the way of a page
through the cluster more than its reading. A rate is that of the records' times of writing, so that
neither the cluster's nor an engine's start is in it. Prints a table and, as the last line, one JSON
object with pages_per_s by number of workers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.machine import headline, machine
from tests.ray.nodes import QUIET, scans, two_nodes
from tests.ray.smallest import smallest_checkpoint
from vllm_dsocr.cli.engines import positive

PAGES_EACH = 10  # of a PDF


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=positive, default=300)
    parser.add_argument("--model", type=Path, help="default: a random one, as small as can be")
    parser.add_argument("--report", type=Path, help="where the table goes too")
    args = parser.parse_args()
    os.environ |= QUIET
    with tempfile.TemporaryDirectory() as folder, two_nodes() as cluster:
        model = args.model or smallest_checkpoint(Path(folder) / "model")
        source = scans(Path(folder) / "in", 0, -(-args.pages // PAGES_EACH), PAGES_EACH)
        rates = {
            workers: _pages_per_s(
                source, Path(folder) / f"out-{workers}", model, cluster.address, workers
            )
            for workers in (1, 2)
        }
    text = _table(rates, args.pages, args.model)
    print(text)
    if args.report:
        args.report.write_text(text, "utf-8")
    print(json.dumps({"pages": args.pages, "pages_per_s": rates, **machine()}))


def _pages_per_s(source: Path, out: Path, model: Path, address: str, workers: int) -> float:
    """From the first record to the last."""
    command = [sys.executable, "-m", "vllm_dsocr.cli", "convert", source, "-o", out]
    command += ["--ray", address, "--workers", str(workers), "--engine", "hf", "--model", model]
    command += ["--mode", "tiny", "--dpi", "72", "--max-tokens", "6", "--retries", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    written = sorted(path.stat().st_mtime_ns for path in out.glob("*/pages/*.json"))
    return round((len(written) - 1) / (written[-1] - written[0]) * 1e9, 2)


def _table(rates: dict[int, float], num_pages: int, model: Path | None) -> str:
    name = model.name if model else "a random checkpoint of one layer a part"
    rows = "\n".join(f"| {workers} | {rate} |" for workers, rate in rates.items())
    return (
        "# `dsocr convert --ray`, pages per second\n\n"
        f"`python -m benchmarks.ray_batch --pages {num_pages}`: a Ray cluster of two nodes of two "
        f"CPUs each, both on this\nmachine; transformers reads {name}, 6 tokens a page; PDFs of "
        f"{PAGES_EACH} pages of 320x320 points,\ndrawn at 72 dpi. From the first record on disk to "
        f"the last.\n\n{headline()}; load average {os.getloadavg()[1]:.1f}\n\n"
        f"| workers | pages/s |\n|---|---|\n{rows}\n\n"
        f"Two workers are {rates[2] / rates[1]:.2f} times as fast as one.\n"
    )


if __name__ == "__main__":
    main()
