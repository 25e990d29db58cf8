"""Problems of environments nobody has, and one whole run in one that has the package installed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import vllm_dsocr
from vllm_dsocr.cli import main
from vllm_dsocr.config import ARCHITECTURE
from vllm_dsocr.plan.sizes import DecoderSizes
from vllm_dsocr.plugin.doctor.checks import ENVIRONMENT_CHECKS, MODEL_CHECKS
from vllm_dsocr.plugin.doctor.facts import Environment, untuned_moe
from vllm_dsocr.plugin.doctor.served import Served, served
from vllm_dsocr.plugin.setup.compat import VLLM_REQUIREMENT, range_problem

SOUND = Environment(
    python="3.11.7",
    torch="2.13.0",
    torch_cuda="13.0",
    has_nvidia_device=True,
    transformers="5.19.0",
    vllm="0.32.0",
    vllm_error=None,
    torchvision_error=None,
    has_vllm_metadata=True,
    plugin="dsocr",
    allowed_plugins=None,
    untuned_moe=None,
)
UNTUNED = "E=64,N=896,device_name=NVIDIA_L4.json"
GOOD = Served(
    architectures=(ARCHITECTURE,),
    model_class="vllm_dsocr.plugin.model:DeepseekOCRForCausalLM",
    runner="V2",
    guard="no 30 tokens twice within 90",
    loops="ended after 4 turns of 60 tokens",
    processors=("a:B",),
    processor_error=None,
    sampling={"temperature": 0.0},
    tokenizer="",
    page_options="",
    limits="",
    caches="",
    attention="",
    quantised="nothing",
    data_parallel_size=1,
)


def problems(facts: Environment | Served) -> dict[str, bool]:
    """text: whether it is fatal."""
    checks = MODEL_CHECKS if isinstance(facts, Served) else ENVIRONMENT_CHECKS
    return {problem.text: problem.fatal for check in checks for problem in check(facts)}


@pytest.mark.parametrize("facts", [SOUND, GOOD, replace(SOUND, allowed_plugins=("a", "dsocr"))])
def test_nothing_is_wrong(facts: Environment | Served) -> None:
    assert problems(facts) == {}


@pytest.mark.parametrize(
    ("facts", "said", "fatal"),
    [
        (replace(SOUND, vllm=None), "not installed", True),
        (replace(SOUND, vllm=None, vllm_error="ImportError: x"), "ImportError: x", True),
        (replace(SOUND, torchvision_error="RuntimeError: nms"), "uninstall it", False),
        (replace(SOUND, vllm="0.26.1"), "outside the range", False),
        (replace(SOUND, has_vllm_metadata=False), "named vllm", True),
        (replace(SOUND, plugin=None), "its own DeepSeek-OCR", True),
        (replace(SOUND, allowed_plugins=("lora",)), "VLLM_PLUGINS=lora leaves out dsocr", True),
        (replace(SOUND, torch_cuda=None), "without CUDA", False),
        (replace(SOUND, untuned_moe=UNTUNED), UNTUNED, False),
        (replace(GOOD, architectures=("LlamaForCausalLM",)), "changes nothing", False),
        (replace(GOOD, model_class="vllm.models:DeepseekOCR"), "not to this package", True),
        (replace(GOOD, processor_error="not a subclass"), "not a subclass", True),
        (replace(GOOD, guard="off: speculative decoding"), "guard is off", False),
        (replace(GOOD, data_parallel_size=2), "--data-parallel-size 2 runs the engines", False),
        (replace(GOOD, sampling={}), "sampled at 1.0", False),
        (replace(GOOD, sampling={"temperature": 0.7}), "sampled at 0.7", False),
    ],
)
def test_one_sentence_for_what_is_wrong(
    facts: Environment | Served, said: str, fatal: bool
) -> None:
    ((text, is_fatal),) = problems(facts).items()
    assert said in text
    assert is_fatal == fatal
    assert text.endswith(".") and "\n" not in text


def test_a_broken_torchvision_that_stops_vllm_is_fatal() -> None:
    broken = replace(SOUND, vllm=None, vllm_error="RuntimeError", torchvision_error="RuntimeError")
    assert list(problems(broken).values()) == [True, True]


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("0.31.0", True),
        ("0.32.0+cpu", True),
        ("0.33.1rc2.dev3+g1a", True),
        ("0.30.9", False),
        ("0.34.0", False),
        ("1.0.0", False),
        ("dev", False),
    ],
)
def test_the_tested_range(version: str, tested: bool) -> None:
    problem = range_problem(version)
    assert (problem is None) == tested
    assert tested or (version in problem and VLLM_REQUIREMENT in problem)


def test_tuned_moe_kernels_are_what_vllm_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused_moe = pytest.importorskip("vllm.model_executor.layers.fused_moe.fused_moe")
    pytest.importorskip("vllm.envs").disable_envs_cache()  # an engine may have filled it
    monkeypatch.setenv("VLLM_TUNED_CONFIG_FOLDER", str(tmp_path))
    published, narrow = DecoderSizes(), DecoderSizes(moe_intermediate_size=32)
    assert untuned_moe(published).startswith("E=64,N=896,device_name=")
    (tmp_path / fused_moe.get_config_file_name(64, 32, None)).write_text("{}")
    assert untuned_moe(narrow) is None


def test_options_before_the_model_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--dtype", "float32"]) == 2
    assert "model comes first" in capsys.readouterr().err


def test_a_folder_that_is_no_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("vllm")
    monkeypatch.setenv("VLLM_PLUGINS", "other")
    assert main(["doctor", str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert f"vLLM cannot configure {tmp_path}" in text
    assert text.rstrip().endswith("serving would fail")


@pytest.fixture
def installed(tmp_path: Path) -> dict[str, str]:
    """An environment in which this package is installed, and a distribution named vllm."""
    vllm = pytest.importorskip("vllm")
    plugin = "[vllm.general_plugins]\ndsocr = vllm_dsocr:register\n"
    distributions = {"vllm_dsocr-0.1.0": plugin, f"vllm-{vllm.__version__}+cpu": ""}
    for name, entry_points in distributions.items():
        folder = tmp_path / f"{name}.dist-info"
        folder.mkdir()
        package, version = name.split("-")
        (folder / "METADATA").write_text(f"Name: {package}\nVersion: {version}\n")
        (folder / "entry_points.txt").write_text(entry_points)
    paths = [str(tmp_path), str(Path(__file__).parents[3])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def test_a_model_in_a_sound_environment(installed: dict[str, str], checkpoint: Path) -> None:
    command = [sys.executable, "-m", "vllm_dsocr.cli", "doctor", str(checkpoint)]
    command += ["--max-model-len", "3000"]
    done = subprocess.run(command, env=installed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROBLEM" not in done.stdout
    for part in ("vllm_dsocr.plugin.model", "temperature 0.0", "within 90", "3000", "gundam"):
        assert part in done.stdout


def test_what_is_switched_off_is_told(checkpoint: Path) -> None:
    """With options of the server itself among those of the engine."""
    pytest.importorskip("vllm")
    vllm_dsocr.register()
    off = ["--additional-config", '{"dsocr": {"guard": false}}', "--port", "8123"]
    facts = served(str(checkpoint), ["--max-model-len=3000", *off])
    assert facts.guard == "off: --additional-config says so"
    assert facts.loops == "not looked for: --additional-config says so"
    assert "the same for all requests" in facts.page_options
    trusting = served(str(checkpoint), ["--max-model-len=3000", "--trust-request-mm-kwargs"])
    assert "any mode by request" in trusting.page_options


def test_an_option_that_vllm_does_not_have(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("vllm")
    assert main(["doctor", "model", "--no-such-option"]) == 2
    assert "no-such-option" in capsys.readouterr().err
