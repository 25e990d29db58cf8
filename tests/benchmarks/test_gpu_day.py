"""The day with a GPU, on a CPU: every step runs, and one that fails or hangs stops no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.gpu import day
from benchmarks.gpu.day import Outcome, Step, report, run, steps

ROOT = Path(__file__).parents[2]
SPEAKS = Step("speaks", ("-c", 'print("a line"); print(\'{"clients": {}}\')'), 30)
FAILS = Step("fails", ("-c", "raise SystemExit('no room')"), 30)
STUBBORN = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(600)"
BEGINS = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {STUBBORN!r}], start_new_session=True)
print("begun", child.pid, flush=True)
child.wait()
"""
HANGS = Step("hangs", ("-c", BEGINS), 5)
FINDS = Step("finds", ("-c", "import os; print(os.environ['VLLM_TUNED_CONFIG_FOLDER'])"), 30, True)


def gone(pid: int) -> bool:
    """Whether it has ended; somebody may still have to be told."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_step_that_fails_or_hangs_stops_no_other(tmp_path: Path) -> None:
    told: list[Outcome] = []
    outcomes = run([HANGS, FAILS, SPEAKS, FINDS], tmp_path, minutes=5, tell=told.append)
    assert told == outcomes
    assert [o.status for o in outcomes] == ["ended after 5 s", "wrong: exit status 1", "ok", "ok"]
    hung, failed, spoke, found = outcomes
    assert "no room" in failed.text
    (child,) = [line.split()[1] for line in hung.text.splitlines() if line.startswith("begun")]
    assert gone(int(child))
    assert spoke.result == {"clients": {}} and found.text.strip() == str(tmp_path)
    text = report(outcomes, "a machine")
    assert "| hangs | ended after 5 s |" in text and "## speaks" in text and "no room" in text


def test_a_day_that_is_broken_off_keeps_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(step: Step, folder: Path, seconds: float) -> Outcome:
        if step.name == "hangs":
            raise KeyboardInterrupt
        return outcome(step, folder, seconds)

    outcome, file = day.outcome, tmp_path / "gpu.md"
    monkeypatch.setattr(day, "outcome", broken_off)
    monkeypatch.setattr(day, "steps", lambda dry, folder: iter([SPEAKS, FAILS, HANGS]))
    with pytest.raises(KeyboardInterrupt):
        day.main(["--dry-run", "--report", str(file)])
    assert "| speaks | ok |" in file.read_text() and "no room" in file.read_text()
    with pytest.raises(FileNotFoundError):
        day.main(["--dry-run", "--report", str(tmp_path / "nowhere" / "gpu.md")])


def test_when_the_time_is_up_the_rest_is_a_line(tmp_path: Path) -> None:
    (outcome,) = run([SPEAKS], tmp_path, minutes=0, tell=lambda outcome: None)
    assert outcome.status == "no time left"


def test_every_step_there_is_has_a_dry_run(tmp_path: Path) -> None:
    real, dry = ([step.name for step in steps(dry, tmp_path)] for dry in (False, True))
    assert real == dry
    assert {"parity", "attention", "encoder", "intree", "guard", "tune"} <= set(real)
    assert sum(name.startswith("server, ") for name in real) == 6


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        day.main([])
    assert "no CUDA device here" in capsys.readouterr().err


@pytest.mark.slow  # every step, six servers among them
@pytest.mark.timeout(3600)
def test_a_dry_run_is_the_whole_day(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    file = tmp_path / "gpu.md"
    command = [sys.executable, "-m", "benchmarks.gpu.day", "--dry-run", "--minutes", "60"]
    done = subprocess.run(
        [*command, "--report", str(file)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])["steps"]
    assert {name: step["status"] for name, step in found.items()} == dict.fromkeys(found, "ok")
    for name in (name for name in found if name.startswith("server")):
        assert all(level["pages_per_s"] > 0 for level in found[name]["clients"].values())
    assert "| server | clients | pages/s |" in file.read_text()
