"""A LoRA adapter's files -> will vLLM load it, and which module does every tensor go to.

vLLM looks at the last part of a name only: an adapter whose prefixes are not the checkpoint's loads
without a word and changes nothing. So names are held against the modules there are. Reads the
header of the weights, never the weights. Standard library only.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
MAX_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # what --max-lora-rank takes
DEFAULT_MAX_RANK = 16
MAX_HEADER = 100_000_000  # bytes, the limit of the format

_PREFIX = "base_model.model."
_KIND = re.compile(r"\.(lora_\w+)(?:\.default)?(\.weight)?$")
_LAYER = r"model\.layers\.\d+"
_DECODER = re.compile(
    rf"{_LAYER}\.(self_attn\.[qkvo]_proj|mlp\.((shared_experts|experts\.\d+)\.)?(gate|up|down)_proj)"
)
_VISION = ("model.sam_model.", "model.vision_model.", "model.projector.")
# Names of other code for the same modules.
_ALIASES = (
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head", "lm_head"),
)


class AdapterError(ValueError):
    """A folder that holds no adapter that can be read."""


@dataclass(frozen=True, slots=True)
class AdapterReport:
    """modules: (name in the adapter, layer numbers as N; vLLM's name or None; tensors).

    problems: why vLLM refuses it or would not use it; empty if it can be served.
    hints: what to say to `vllm serve`.
    """

    modules: tuple[tuple[str, str | None, int], ...]
    problems: tuple[str, ...]
    hints: tuple[str, ...]


def split_name(name: str) -> tuple[str, str]:
    """A tensor's name, of PEFT or unsloth -> this model's module, `lora_A.weight` or its like."""
    match = _KIND.search(name)
    module = name[: match.start()] if match else name.rpartition(".")[0]
    kind = match[1] + (match[2] or "") if match else name.rpartition(".")[2]
    module = module.replace(_PREFIX, "")
    for other, own in _ALIASES:
        if module.startswith(other):
            module = own + module.removeprefix(other)
    return module, kind


def vllm_name(name: str) -> str | None:
    """The module of vLLM's model that a tensor of that name changes; None if there is none."""
    module, kind = split_name(name)
    is_literal = name.replace(_PREFIX, "") == f"{module}.{kind}"
    known = kind in ("lora_A.weight", "lora_B.weight") and _DECODER.fullmatch(module)
    return f"language_model.{module}" if is_literal and known else None


def check_adapter(folder: Path) -> AdapterReport:
    """Raises AdapterError when there is no adapter."""
    config, names = _read_config(folder), list(_tensor_names(folder))
    counts = Counter((_numberless(split_name(name)[0]), _goal(name)) for name in names)
    modules = tuple((module, goal, count) for (module, goal), count in counts.items())
    problems = (*_config_problems(config), *_name_problems(names))
    return AdapterReport(modules, problems, tuple(_hints(config)))


def _goal(name: str) -> str | None:
    goal = vllm_name(name)
    return goal and _numberless(goal)


def _numberless(module: str) -> str:
    return re.sub(r"\.\d+", ".N", module)


def _read_config(folder: Path) -> Mapping[str, Any]:
    try:
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(f"cannot read {folder / CONFIG_NAME}: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("r"), int):
        raise AdapterError(f"{folder / CONFIG_NAME} states no rank: not the adapter of a LoRA")
    return config


def _tensor_names(folder: Path) -> Iterator[str]:
    """Names in the header of a safetensors file."""
    try:
        with (folder / WEIGHTS_NAME).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, MAX_HEADER)))
    except (OSError, ValueError) as error:
        raise AdapterError(f"cannot read {folder / WEIGHTS_NAME}: {error}") from error
    yield from (name for name in header if name != "__metadata__")


def _config_problems(config: Mapping[str, Any]) -> Iterator[str]:
    kind = config.get("peft_type", "LORA")
    if kind != "LORA":
        yield f"vLLM loads LoRA adapters, this is {kind}"
    if config.get("use_dora"):
        yield "vLLM does not load DoRA"
    if config.get("bias", "none") != "none" or config.get("lora_bias"):
        yield "vLLM does not load adapters with biases"
    if config.get("modules_to_save"):
        yield f"vLLM does not load whole modules: {', '.join(config['modules_to_save'])}"
    if _rank(config) > MAX_RANKS[-1]:
        yield f"rank {_rank(config)} is above vLLM's limit of {MAX_RANKS[-1]}"


def _name_problems(names: list[str]) -> Iterator[str]:
    lost = Counter(_numberless(split_name(n)[0]) for n in names if vllm_name(n) is None)
    for module, count in lost.items():
        if module.startswith(_VISION):
            yield f"{module} ({count} tensors): vLLM has no adapters for the vision part"
        elif _DECODER.fullmatch(module.replace(".N", ".0")):
            yield f"{module} ({count} tensors): other prefixes than the checkpoint's"
        else:
            yield f"{module} ({count} tensors): vLLM has no adapters there"


def _hints(config: Mapping[str, Any]) -> Iterator[str]:
    rank = _rank(config)
    if DEFAULT_MAX_RANK < rank <= MAX_RANKS[-1]:
        yield f"--max-lora-rank {next(limit for limit in MAX_RANKS if limit >= rank)}"


def _rank(config: Mapping[str, Any]) -> int:
    return max([config["r"], *(config.get("rank_pattern") or {}).values()])
