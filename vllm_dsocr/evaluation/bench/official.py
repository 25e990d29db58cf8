"""A benchmark's folder and the texts read -> the numbers of its own scorer, where there is one.

Scorers run in a process of their own, by a Python that may be another environment's: `omnidocbench`
pins an old numpy and is AGPL, `olmocr` draws formulas in a browser. Nothing of them is imported.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vllm_dsocr.evaluation.bench.pages import omnidocbench_file

DRIVER = Path(__file__).with_name("omnidocbench_driver.py")
PACKAGES = {"olmocr-bench": "olmocr.bench.benchmark", "omnidocbench": "omnidocbench.evaluate"}
_FILE = re.compile(r"^ {8}(\S+?)(?:\.jsonl)?\s*: ([\d.]+)% \((\d+)/(\d+) tests\)", re.MULTILINE)
_OVERALL = re.compile(r": Average Score: ([\d.]+)%")


class NoScorer(Exception):
    """Why the benchmark's own scorer gives no numbers; one sentence."""


def score(benchmark: str, data: Path, out: Path, python: str) -> dict[str, Any]:
    """What the scorer says. Raises NoScorer."""
    if benchmark not in SCORERS:
        raise NoScorer(f"{benchmark} has no scorer that can be installed")
    module = PACKAGES[benchmark]
    _run([python, "-c", f"import {module}"], f"{python} cannot import {module}")
    return SCORERS[benchmark](data, out, python)


def _omnidocbench(data: Path, out: Path, python: str) -> dict[str, Any]:
    file = omnidocbench_file(data)
    output = _run([python, str(DRIVER), str(file), str(out)], "omnidocbench did not finish")
    return {"all": json.loads(output.splitlines()[-1])}


def _olmocr_bench(data: Path, out: Path, python: str) -> dict[str, Any]:
    command = [python, "-m", "olmocr.bench.benchmark", "--dir", str(data), "--force"]
    output = _run([*command, "--candidate", out.name], "olmocr.bench.benchmark did not finish")
    overall = _OVERALL.findall(output)
    if not overall:
        raise NoScorer("olmocr.bench.benchmark printed no score")
    files = {name: int(held) / int(count) for name, _, held, count in _FILE.findall(output)}
    return {"overall": float(overall[-1]) / 100, "files": files}


def _run(command: list[str], trouble: str) -> str:
    """Standard output. Raises NoScorer with the last line of what went wrong."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NoScorer(f"{trouble}: {error.strerror}") from error
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
        raise NoScorer(f"{trouble}: {lines[-1]}")
    return done.stdout


SCORERS: dict[str, Callable[[Path, Path, str], dict[str, Any]]] = {
    "omnidocbench": _omnidocbench,
    "olmocr-bench": _olmocr_bench,
}
