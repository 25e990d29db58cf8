"""The fuzzer itself: every target runs, and what goes wrong is found and can be repeated."""

from __future__ import annotations

import signal
import subprocess
from contextlib import contextmanager
from random import Random

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("docling_core")

from tests.fuzz import __main__ as fuzz  # noqa: E402


@pytest.mark.parametrize("target", fuzz.TARGETS)
def test_a_few_cases_of_each(target: str) -> None:
    assert fuzz.run_chunk(target, seed=5, first=0, cases=10) == 0


def test_errors_are_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def broken():
        def check(rng: Random) -> None:
            assert rng.random() < 2, "never"
            raise KeyError("planted")

        yield check

    monkeypatch.setitem(fuzz.TARGETS, "broken", broken)
    assert fuzz.run_chunk("broken", 0, 3, 2) == 2
    assert '"finding": 4, "what": "KeyError in check: ' in capsys.readouterr().out


def test_a_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "import os; print('{\"case\": 7}', flush=True); os.abort()"
    run = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **options: run([*command[:1], "-c", crash], **options)
    )
    done, (finding,) = fuzz.start_chunk("files", 1, 0, 50)
    assert done == 1
    assert "--target=files --seed=1 --first=7 --cases=1" in finding
    assert f"ended with {-signal.SIGABRT}" in finding
