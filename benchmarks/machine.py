"""What a benchmark ran on, and the memory of its process.

One line for a person, one dictionary for the JSON line.
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "vllm", "transformers")
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def machine() -> dict[str, str | int]:
    """Processor or device, cores and versions."""
    cuda = torch.cuda.is_available()
    found = {name: _version(name) for name in PACKAGES}
    return {
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: text for name, text in found.items() if text},
    }


def headline() -> str:
    """The same, to print above a table."""
    return ", ".join(f"{name} {value}" for name, value in machine().items())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.machine()


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (peak) of this process, bytes; Linux only."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    """VmHWM starts again from what is resident now."""
    RESET.write_text("5")
