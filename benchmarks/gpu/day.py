"""One command for a day with a GPU: every step in a process of its own, one report of all of them.

    python -m benchmarks.gpu.day [--report FILE] [--minutes 10] [--only STEP ...]
    python -m benchmarks.gpu.day --dry-run        # every step in sizes of a toy, on a CPU

A step that fails, hangs or finds no time left is a line of the report and stops no other; what
matters most comes first, and the report is written after each. Needs vLLM for CUDA in this Python,
and pytest for one step. Ends with one JSON object and, where a step found something wrong, with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.machine import headline, machine

ROOT = Path(__file__).parents[2]
GRAPHS = ("--compilation-config", '{"cudagraph_mm_encoder": true}')
FP8 = ("--quantization", "fp8_per_channel")
FP8_ENCODER = (*FP8, "--additional-config", '{"dsocr": {"quantize_encoder": true}}')
KERNELS = ("parity", "attention", "encoder", "intree", "guard", "engine", "pixels", "loss")
SKIPPED = "no time left"
PATIENCE = 4  # with a CPU that has other work, in a dry run


@dataclass(frozen=True)
class Step:
    """arguments: of Python.  seconds: after which it is ended.  tuned: finds what `tune` wrote."""

    name: str
    arguments: tuple[str, ...]
    seconds: float
    tuned: bool = False


@dataclass(frozen=True)
class Outcome:
    """status: ok, wrong (exit code), or why there is none; result: its last line, if JSON."""

    step: Step
    status: str
    seconds: float
    text: str
    result: dict[str, Any]


def steps(dry: bool, folder: Path) -> Iterator[Step]:
    """In order of what matters most."""
    kernels = ("--device", "cpu", "--small") if dry else ()
    yield Step("parity", ("-m", "benchmarks.gpu", *kernels, "--only", "parity"), 60)
    yield server("ours", dry, "ours")
    yield server("in-tree", dry, "peer")
    yield server("ours, fp8 with encoder", dry, "ours", *(() if dry else FP8_ENCODER))
    for name in KERNELS[1:]:
        yield Step(name, ("-m", "benchmarks.gpu", *kernels, "--only", name), 75)
    small = ("--device", "cpu", "--side", "256", "--seconds", "1") if dry else ()
    tune = ("-m", "vllm_dsocr.cli", "tune", *small, "--experts-seconds", "90")
    yield Step("tune", (*tune, "--folder", str(folder)), 150)
    yield replace(server("ours, tuned", dry, "ours"), tuned=True)
    yield server("ours, encoder graphs", dry, "ours", *(() if dry else GRAPHS))
    yield server("ours, fp8", dry, "ours", *(() if dry else FP8))
    engine = ("tests/parity/test_geometry.py",) if dry else ("tests/parity/test_vllm.py",)
    yield Step("parity, engine", ("-m", "pytest", "-q", "-o", "addopts=", *engine), 90)


def server(name: str, dry: bool, side: str, *flags: str) -> Step:
    """In toy sizes always ours: vLLM's own has no others than the published."""
    small = ("--small", "--clients", "1", "2", "--seconds", "0.1", "--pages", "8", "--tokens", "4")
    sizes = ("--side", "ours", *small) if dry else ("--side", side)
    arguments = ("-m", "benchmarks.gpu.server", *sizes, *(("--", *flags) if flags else ()))
    return Step(f"server, {name}", arguments, 150)


def outcome(step: Step, folder: Path, seconds: float) -> Outcome:
    """Runs it; what it started ends with it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment["VLLM_TUNED_CONFIG_FOLDER"] = str(folder if step.tuned else folder / "none")
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *step.arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        text, _ = process.communicate(timeout=seconds)
        status = "ok" if process.returncode == 0 else f"wrong: exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        text = ended(process)
        status = f"ended after {seconds:.0f} s"
    took = time.monotonic() - started
    return Outcome(step, status, took, text, last_json(text))


def ended(process: subprocess.Popen[str]) -> str:
    """Its output, once it and all that it started are gone; asked politely first."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=20)
    for each in (*started, process):  # a server has a session of its own
        with suppress(psutil.NoSuchProcess):
            each.kill()
    return process.communicate()[0]


def last_json(text: str) -> dict[str, Any]:
    """The last line, if it is an object."""
    lines = text.strip().splitlines()
    try:
        found = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def run(
    wanted: Sequence[Step], folder: Path, minutes: float, tell: Callable[[Outcome], None]
) -> list[Outcome]:
    """All of them, as far as the time goes."""
    end = time.monotonic() + 60 * minutes
    outcomes = []
    for step in wanted:
        left = end - time.monotonic()
        if left < min(step.seconds, 20):
            outcomes.append(Outcome(step, SKIPPED, 0.0, "", {}))
        else:
            outcomes.append(outcome(step, folder, min(step.seconds, left)))
        tell(outcomes[-1])
    return outcomes


def report(outcomes: Sequence[Outcome], about: str) -> str:
    """Markdown: one table of all, then the output of each step with its command."""
    lines = ["# A day with a GPU", "", about, "", "| step | status | seconds |", "|---|---|---:|"]
    lines += [f"| {o.step.name} | {o.status} | {o.seconds:.0f} |" for o in outcomes]
    servers = [o for o in outcomes if "clients" in o.result]
    if servers:
        lines += ["", "| server | clients | pages/s | TTFT p50, p95 s | latency p50, p95 s |"]
        lines += ["|---|---:|---:|---:|---:|", *(line for o in servers for line in levels(o))]
    for o in outcomes:
        command = " ".join(["python", *o.step.arguments])
        shown = "\n".join(o.text.strip().splitlines()[-60:])
        lines += ["", f"## {o.step.name}", "", f"`{command}`", "", "```", shown, "```"]
    return "\n".join(lines) + "\n"


def levels(server: Outcome) -> Iterator[str]:
    for clients, found in server.result["clients"].items():
        pairs = (
            f"{found[f'{name}_p50']:.3g}, {found[f'{name}_p95']:.3g}"
            for name in ("ttft_s", "latency_s")
        )
        cells = (server.step.name, clients, f"{found['pages_per_s']:.3g}", *pairs)
        yield f"| {' | '.join(cells)} |"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.gpu.day", description=__doc__.split("\n")[0])
    parser.add_argument("--report", type=Path, help="write all of it there as Markdown")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all of it")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="names as in the table")
    parser.add_argument("--dry-run", action="store_true", help="sizes of a toy, on a CPU")
    args = parser.parse_args(argv)
    if not args.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device here; --dry-run runs every step in sizes of a toy")
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent)
        patience = PATIENCE if args.dry_run else 1
        known = [
            replace(step, seconds=patience * step.seconds) for step in steps(args.dry_run, folder)
        ]
        if unknown := set(args.only or ()) - {step.name for step in known}:
            parser.error(f"no such step: {', '.join(sorted(unknown))}")
        wanted = [step for step in known if not args.only or step.name in args.only]
        about = f"{headline()}; {'dry run; ' if args.dry_run else ''}at most {args.minutes:g} min"
        print(about, flush=True)
        outcomes: list[Outcome] = []

        def keep(*done: Outcome) -> None:
            outcomes.extend(done)
            if args.report:
                args.report.write_text(report(outcomes, about), encoding="utf-8")
            for each in done:
                tell(each)

        keep()  # a report that cannot be written is known before anything runs
        run(wanted, folder, args.minutes, keep)
    found = {o.step.name: {"status": o.status, **o.result} for o in outcomes}
    print(json.dumps({**machine(), "dry_run": args.dry_run, "steps": found}))
    return int(any(o.status not in ("ok", SKIPPED) for o in outcomes))


def tell(done: Outcome) -> None:
    print(f"{done.step.name:<28}{done.status:<28}{done.seconds:>6.0f} s", flush=True)
    if done.status not in ("ok", SKIPPED):
        print("\n".join(done.text.strip().splitlines()[-5:]), flush=True)


if __name__ == "__main__":
    sys.exit(main())
