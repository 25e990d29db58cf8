"""`dsocr` as another program runs it: a process of its own, real files, a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("openai", reason="pip install '.[client]'")
pytest.importorskip("pypdfium2", reason="pip install '.[pdf]'")

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a run of `dsocr` left."""

    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        """stdout as lines of JSON; fails for any other line."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def summaries(self) -> dict[str, dict[str, Any]]:
        """What the last event says, by document."""
        assert self.events[-1]["event"] == "summary"
        return {summary["document"]: summary for summary in self.events[-1]["documents"]}


def start(*arguments: str | Path, **more: Any) -> subprocess.Popen[str]:
    """`dsocr` on its way."""
    return subprocess.Popen(
        [sys.executable, "-m", "vllm_dsocr.cli", *map(os.fspath, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        **more,
    )


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder but the timings, which differ from run to run."""
    return {
        os.fspath(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timings.jsonl"
    }


def ended(process: subprocess.Popen[str], timeout: float = 120) -> Outcome:
    """What a process left when it has ended."""
    out, err = process.communicate(timeout=timeout)
    assert "Traceback" not in err, err
    return Outcome(process.returncode, out, err)


@pytest.fixture
def dsocr() -> Callable[..., Outcome]:
    """Runs `dsocr` to its end."""
    return lambda *arguments, **more: ended(start(*arguments, **more))
