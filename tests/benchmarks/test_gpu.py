"""The GPU benchmark in toy sizes on this CPU: it runs without a host, and it can find fault."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import engine, guard
from benchmarks.gpu.bench import Bench, Row, relative_rms

ROOT = Path(__file__).parents[2]
SMALL = ["--device", "cpu", "--small"]
WITHOUT_HOSTS = """
import runpy, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("vllm", "transformers"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
sys.argv[0] = "gpu"
runpy.run_module("benchmarks.gpu", run_name="__main__")
"""


@pytest.fixture
def bench() -> Bench:
    return Bench(torch.device("cpu"), small=True)


def last_line(text: str) -> dict:
    return json.loads(text.splitlines()[-1])


@pytest.mark.slow
def test_torch_is_enough_for_all_but_loss_and_hosts(tmp_path: Path) -> None:
    report = tmp_path / "gpu.md"
    command = [sys.executable, "-c", WITHOUT_HOSTS, *SMALL, "--report", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    result = last_line(done.stdout)
    rows = result["rows"]
    assert result["ok"] and result["matrix_tflops"] > 0
    assert {name for name, row in rows.items() if "skipped" in row.get("note", "")} == {
        "guard, kernel", "in-tree encoder", "loss", "vLLM",
    }  # fmt: skip
    assert rows["encoder: bf16 against fp32"]["error"] > 0
    assert rows["encoder: pages 4"]["peak"] > rows["encoder: pages 1"]["peak"] > 0
    table = [line for line in report.read_text().splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(rows)


def test_the_loss_where_transformers_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    assert gpu.main([*SMALL, "--only", "loss"]) == 0
    rows = last_line(capsys.readouterr().out)["rows"]
    plain, lean = (row["peak"] for name, row in rows.items() if "forward" in row.get("note", ""))
    assert lean < plain
    assert rows["loss: lean against plain, gradient"]["error"] <= 1e-5


def test_the_guard_behind_the_engines_interface(bench: Bench) -> None:
    pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor")
    rows = list(engine.run(bench))
    assert [row.name for row in rows] == ["vLLM, guard: 30/90", "vLLM, guard: 20/8192"]
    assert all(row.seconds for row in rows)


def test_a_guard_that_bans_nothing_is_found_out(bench: Bench) -> None:
    assert guard.wrong_rows(bench, lambda *_: None) > 3


def test_a_part_that_fails_stops_no_other_but_the_command_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(bench: Bench) -> Iterator[Row]:
        yield Row("before", seconds=1.0)
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setitem(gpu.PARTS, "loss", failing)
    monkeypatch.setitem(gpu.PARTS, "guard", lambda bench: [Row("after")])
    assert gpu.main([*SMALL, "--only", "loss", "guard"]) == 1
    result = last_line(capsys.readouterr().out)
    assert list(result["rows"]) == ["before", "loss: failed", "after"]
    assert "no room" in result["rows"]["loss: failed"]["note"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_is_one_sentence() -> None:
    with pytest.raises(SystemExit, match=r"^No CUDA device here.*\.$"):
        gpu.main([])


def test_not_a_number_is_never_right() -> None:
    error = relative_rms(torch.tensor([float("nan"), 1.0]), torch.ones(2))
    assert not Row("nan", error=error, allowed=1.0).ok
