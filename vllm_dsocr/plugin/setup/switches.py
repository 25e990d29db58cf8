"""`--additional-config '{"dsocr": {...}}'` -> what a server leaves out of the defaults, or adds.

    guard             the ban of repeated n-grams, on unless false
    loop_detection    ending answers that go in circles, on as the guard is
    request_modes     planning memory for every mode, not the server's alone; unless stated, as the
                      command line lets requests choose
    attention         form of the vision encoder's attention; measured at start unless named
    quantize_encoder  linear layers of the encoder are quantised as `--quantization` says

vLLM hands this option to plugins as it is. Knows nothing of what the switches do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from vllm_dsocr.config import OptionError

SECTION = "dsocr"


@dataclass(frozen=True, slots=True)
class Switches:
    """What is on; None is for the host to decide."""

    guard: bool = True
    loop_detection: bool = True
    request_modes: bool | None = None
    attention: str | None = None
    quantize_encoder: bool = False


NAMES = ("attention",)  # the switches that name something


def switches(additional_config: Any) -> Switches:
    """Raises OptionError naming the switch that does not exist or has a value of another kind."""
    stated = additional_config.get(SECTION, {}) if isinstance(additional_config, Mapping) else {}
    if not isinstance(stated, Mapping):
        raise OptionError(f"additional_config: {SECTION} must be an object, got {stated!r}")
    known = [field.name for field in fields(Switches)]
    for name, value in stated.items():
        if name not in known:
            raise OptionError(
                f"additional_config: unknown {SECTION} switch {name!r}; "
                f"there are {', '.join(known)}"
            )
        kind, said = (str, "a name") if name in NAMES else (bool, "true or false")
        if not isinstance(value, kind):
            raise OptionError(f"additional_config: {SECTION}.{name} must be {said}, got {value!r}")
    return Switches(**{"loop_detection": stated.get("guard", True), **stated})
