"""Facts of the environment and of a model -> lines for people, and the exit code."""

from __future__ import annotations

from collections.abc import Sequence

from vllm_dsocr import __version__
from vllm_dsocr.plugin.doctor.checks import ENVIRONMENT_CHECKS, MODEL_CHECKS, Problem
from vllm_dsocr.plugin.doctor.facts import Environment, environment
from vllm_dsocr.plugin.doctor.served import Served, served


def report(model: str | None, flags: Sequence[str]) -> int:
    """Prints what is and what is wrong; 1 when serving would fail."""
    machine = environment()
    _print(environment_lines(machine))
    problems = [problem for check in ENVIRONMENT_CHECKS for problem in check(machine)]
    if model is not None and machine.vllm is not None:
        problems += _look_at_model(model, flags)
    for problem in problems:
        print(f"{'PROBLEM' if problem.fatal else 'note'}: {problem.text}")
    fails = any(problem.fatal for problem in problems)
    print("serving would fail" if fails else "ready to serve")
    return int(fails)


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
        ("loops", facts.loops),
        ("processors", ", ".join(facts.processors) or "none"),
        ("sampling", sampling or "vLLM's neutral values"),
        ("tokenizer", facts.tokenizer),
        ("pages", facts.page_options),
        ("limits", facts.limits),
        ("caches", facts.caches),
        ("attention", facts.attention),
        ("quantised", facts.quantised),
    ]


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
