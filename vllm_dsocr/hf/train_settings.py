"""A YAML file -> TrainSettings, every key checked before anything is loaded.

Knows what may be said, not what it does: see `hf/training.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from vllm_dsocr.config import OFFICIAL_MODEL, PageOptions
from vllm_dsocr.hf.lora import LORA_PARTS, LoraSettings
from vllm_dsocr.page.prompt import TASKS

PARTS = ("vision", "projector", "language")
# Set by the code that runs the Trainer.
OWN_ARGUMENTS = ("output_dir", "remove_unused_columns", "prediction_loss_only", "do_train")


class SettingsError(ValueError):
    """Something in a configuration that cannot be; the message names the key."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What to train on what, and how.

    data, eval_data: JSONL or folder, see `hf/data.py`.  prompt: of samples without one.
    page: keys of PAGE_OPTIONS, on top of the checkpoint's.  freeze: parts that stay as they are.
    lora: adapters instead of the weights themselves.
    max_length: tokens; pages with more are left out.
    eval_pages: how many of eval_data are read for the character error rate.
    trainer: arguments of transformers' TrainingArguments.
    """

    data: Path
    output: Path
    model: str = OFFICIAL_MODEL
    eval_data: Path | None = None
    prompt: str = TASKS["free"]
    page: Mapping[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    lora: LoraSettings | None = None
    lean_loss: bool = True
    max_length: int | None = None
    eval_pages: int = 32
    trainer: Mapping[str, Any] = field(default_factory=dict)


def read_settings(path: Path) -> TrainSettings:
    """Raises SettingsError or OSError. Paths are those of the working directory."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingsError(f"not YAML: {error}") from error
    return settings_from(values)


def settings_from(values: Any) -> TrainSettings:
    """A mapping as the YAML file spells it -> settings. Raises SettingsError naming the key."""
    values = dict(_mapping("the configuration", values, _names(TrainSettings)))
    missing = [f.name for f in dataclasses.fields(TrainSettings) if _is_missing(f, values)]
    if missing:
        raise SettingsError(f"{missing[0]!r} is missing")
    for key, (kinds, what) in _KINDS.items():
        if key in values and type(values[key]) not in kinds:
            raise SettingsError(f"{key} must be {what}, got {values[key]!r}")
    for key in ("data", "eval_data", "output"):
        if values.get(key) is not None:
            values[key] = Path(values[key])
    return _checked(values)


_NULL = type(None)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "data": ((str,), "a path"),
    "output": ((str,), "a path"),
    "model": ((str,), "a checkpoint"),
    "eval_data": ((str, _NULL), "a path"),
    "prompt": ((str,), "a text"),
    "lean_loss": ((bool,), "true or false"),
    "max_length": ((int, _NULL), "a number of tokens"),
    "eval_pages": ((int,), "a number of pages"),
}


def is_error_rate(metric: Any) -> bool:
    """Is it `cer`, with or without the name of the data in front?"""
    return isinstance(metric, str) and metric.rpartition("_")[2] == "cer"


def _checked(values: dict[str, Any]) -> TrainSettings:
    freeze = values.get("freeze") or []
    if not _is_list_of(freeze, PARTS):
        raise SettingsError(f"freeze must be a list of {', '.join(PARTS)}, got {freeze!r}")
    if values.get("lora") is not None:
        if freeze:
            raise SettingsError("with lora everything else stays as it is: leave freeze out")
        values["lora"] = _lora(values["lora"])
    page = values["page"] = values.get("page") or {}
    PageOptions().override(_mapping("page", page, None))  # raises OptionError, a ValueError
    allowed = _names(TrainingArguments) - set(OWN_ARGUMENTS)
    trainer = _mapping("trainer", values.get("trainer") or {}, allowed)
    values["trainer"] = {name: _number(name, value) for name, value in trainer.items()}
    if trainer.get("greater_is_better") and is_error_rate(trainer.get("metric_for_best_model")):
        raise SettingsError("trainer.greater_is_better is true: the greatest error rate is worst")
    return TrainSettings(**{**values, "freeze": tuple(freeze)})


def _lora(values: Any) -> LoraSettings:
    values = dict(_mapping("lora", values, _names(LoraSettings)))
    parts = values.get("parts", ["language"])
    if not parts or not _is_list_of(parts, LORA_PARTS):
        raise SettingsError(f"lora.parts must be a list of {', '.join(LORA_PARTS)}, got {parts!r}")
    for key in ("rank", "alpha"):
        number = values.get(key, 1)
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise SettingsError(f"lora.{key} must be a positive integer, got {number!r}")
    dropout = values.get("dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise SettingsError(f"lora.dropout must be from 0 to below 1, got {dropout!r}")
    return LoraSettings(**{**values, "parts": tuple(parts)})


def _number(name: str, value: Any) -> Any:
    """YAML takes 2e-5 for a text: it wants 2.0e-5, which nobody writes."""
    if not isinstance(value, str) or not isinstance(getattr(TrainingArguments, name, None), float):
        return value
    try:
        return float(value)
    except ValueError as error:
        raise SettingsError(f"trainer.{name} must be a number, got {value!r}") from error


def _is_list_of(values: Any, known: Collection[str]) -> bool:
    return isinstance(values, list) and all(value in list(known) for value in values)


def _mapping(where: str, values: Any, known: set[str] | None) -> Mapping[str, Any]:
    if not isinstance(values, dict):
        raise SettingsError(f"{where} must be a mapping, got {values!r}")
    unknown = sorted(set(map(str, values)) - known) if known is not None else []
    if unknown:
        names = ", ".join(sorted(known)) if len(known) < 20 else "those of TrainingArguments"
        raise SettingsError(f"unknown key {unknown[0]!r} in {where}; known are {names}")
    return values


def _names(kind: type) -> set[str]:
    return {f.name for f in dataclasses.fields(kind) if f.init}


def _is_missing(one: dataclasses.Field, values: Mapping[str, Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING and one.name not in values
