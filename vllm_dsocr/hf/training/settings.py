"""A YAML file -> TrainSettings, every key checked before anything is loaded.

Knows what may be said, not what it does: see `run.py`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from transformers import TrainingArguments

from vllm_dsocr.config import OFFICIAL_MODEL, PageOptions
from vllm_dsocr.hf.training.lora import BASES, LORA_PARTS, LoraSettings
from vllm_dsocr.hf.training.parts import PARTS
from vllm_dsocr.page.prompt import TASKS

GATHERED = "stage3_gather_16bit_weights_on_model_save"
# Set by the code that runs the Trainer.
OWN_ARGUMENTS = ("output_dir", "remove_unused_columns", "prediction_loss_only", "do_train")


class SettingsError(ValueError):
    """Something in a configuration that cannot be; the message names the key."""


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """What to train on what, and how.

    data, eval_data: file, folder or data set, see `samples.py`.  prompt: of samples without one.
    page: keys of PAGE_OPTIONS, on top of the checkpoint's.  freeze: parts that stay as they are.
    lora: adapters instead of the weights themselves.
    rates: learning rates of parts; the others have the Trainer's.
    early_stopping: end after so many evaluations that are no better than the best.
    max_length: tokens; pages with more are left out.
    packing: tokens of a row that several pages share; None: a row for each page.
    skip_bad: leave out samples that cannot be used.  stream: read data as it is needed.
    eval_pages: how many of eval_data are read for the character error rate.
    trainer: arguments of transformers' TrainingArguments.
    """

    data: str
    output: Path
    model: str = OFFICIAL_MODEL
    eval_data: str | None = None
    prompt: str = TASKS["free"]
    page: Mapping[str, Any] = field(default_factory=dict)
    freeze: tuple[str, ...] = ()
    lora: LoraSettings | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    early_stopping: int | None = None
    lean_loss: bool = True
    max_length: int | None = None
    packing: int | None = None
    skip_bad: bool = False
    stream: bool = False
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
    values["output"] = Path(values["output"])
    return _checked(values)


_NULL = type(None)
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    "data": ((str,), "a path"),
    "output": ((str,), "a path"),
    "model": ((str,), "a checkpoint"),
    "eval_data": ((str, _NULL), "a path"),
    "prompt": ((str,), "a text"),
    "lean_loss": ((bool,), "true or false"),
    "skip_bad": ((bool,), "true or false"),
    "stream": ((bool,), "true or false"),
    "max_length": ((int, _NULL), "a number of tokens"),
    "packing": ((int, _NULL), "a number of tokens"),
    "eval_pages": ((int,), "a number of pages"),
    "early_stopping": ((int, _NULL), "a number of evaluations"),
}


def is_error_rate(metric: Any) -> bool:
    """Is it `cer`, with or without the name of the data in front?"""
    return isinstance(metric, str) and metric.rpartition("_")[2] == "cer"


def _checked(values: dict[str, Any]) -> TrainSettings:
    _check_there("model", values.get("model"))
    freeze = values.get("freeze") or []
    if not _is_list_of(freeze, PARTS):
        raise SettingsError(f"freeze must be a list of {', '.join(PARTS)}, got {freeze!r}")
    if values.get("lora") is not None:
        if freeze:
            raise SettingsError("with lora everything else stays as it is: leave freeze out")
        values["lora"] = _lora(values["lora"])
    values["rates"] = {
        part: _positive(f"rates.{part}", rate)
        for part, rate in _mapping("rates", values.get("rates") or {}, set(PARTS)).items()
    }
    page = values["page"] = values.get("page") or {}
    PageOptions().override(_mapping("page", page, None))  # raises OptionError, a ValueError
    allowed = _names(TrainingArguments) - set(OWN_ARGUMENTS)
    trainer = _mapping("trainer", values.get("trainer") or {}, allowed)
    values["trainer"] = {name: _number(name, value) for name, value in trainer.items()}
    _check_zero(trainer.get("deepspeed"))
    if values.get("packing") is not None and values["packing"] < 1:
        raise SettingsError(f"packing must be a number of tokens, got {values['packing']!r}")
    if values.get("stream") and trainer.get("max_steps", -1) < 1:
        raise SettingsError("with stream the data has no known length: set trainer.max_steps")
    if trainer.get("greater_is_better") and is_error_rate(trainer.get("metric_for_best_model")):
        raise SettingsError("trainer.greater_is_better is true: the greatest error rate is worst")
    return TrainSettings(**{**values, "freeze": tuple(freeze)})


def _check_there(key: str, name: Any) -> None:
    """The hub is not asked for what can only be a folder."""
    path = isinstance(name, str) and (name.startswith((".", "/", "~")) or name.count("/") > 1)
    if path and not Path(name).is_dir():
        raise SettingsError(f"{key}: there is no folder {name}")


def _check_zero(given: Any) -> None:
    """A configuration of DeepSpeed, or the path of one: does ZeRO-3 save what serves?"""
    if isinstance(given, str) and Path(given).is_file():
        try:
            given = json.loads(Path(given).read_text(encoding="utf-8"))
        except ValueError as error:
            raise SettingsError(f"trainer.deepspeed: {given} is not JSON: {error}") from error
    zero = given.get("zero_optimization") if isinstance(given, dict) else None
    if isinstance(zero, dict) and zero.get("stage") == 3 and not zero.get(GATHERED):
        raise SettingsError(
            f"trainer.deepspeed: ZeRO-3 needs zero_optimization.{GATHERED}: true, "
            "else what is saved lies in pieces that nothing serves"
        )


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
    for key in ("rslora", "dora"):
        if type(values.get(key, False)) is not bool:
            raise SettingsError(f"lora.{key} must be true or false, got {values[key]!r}")
    if values.get("base", BASES[0]) not in BASES:
        raise SettingsError(f"lora.base must be one of {', '.join(BASES)}, got {values['base']!r}")
    if not isinstance(values.get("adapter"), (str, _NULL)):
        raise SettingsError(f"lora.adapter must be a path, got {values['adapter']!r}")
    _check_there("lora.adapter", values.get("adapter"))
    return LoraSettings(**{**values, "parts": tuple(parts), **_modules(values)})


def _modules(values: Mapping[str, Any]) -> dict[str, Any]:
    """Names of modules: a list, or for targets also a pattern; a list becomes a tuple."""
    target, whole = values.get("target_modules"), values.get("modules_to_save") or []
    if isinstance(target, list) and _is_list_of_texts(target):
        target = tuple(target)
    elif not isinstance(target, (str, _NULL)):
        raise SettingsError(f"lora.target_modules must be names or a pattern, got {target!r}")
    if target is not None and "parts" in values:
        raise SettingsError("lora.target_modules says where adapters go: leave parts out")
    if not isinstance(whole, list) or not _is_list_of_texts(whole):
        raise SettingsError(f"lora.modules_to_save must be a list of names, got {whole!r}")
    return {"target_modules": target, "modules_to_save": tuple(whole)}


def _is_list_of_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _positive(key: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise SettingsError(f"{key} must be a number above 0, got {value!r}")
    return number


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
    if known is not None and unknown:
        names = ", ".join(sorted(known)) if len(known) < 20 else "those of TrainingArguments"
        raise SettingsError(f"unknown key {unknown[0]!r} in {where}; known are {names}")
    return values


def _names(kind: type) -> set[str]:
    return {f.name for f in dataclasses.fields(kind) if f.init}


def _is_missing(one: dataclasses.Field[Any], values: Mapping[str, Any]) -> bool:
    return one.default is MISSING and one.default_factory is MISSING and one.name not in values
