"""The `dsocr` command: one line per subcommand, each imported only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from vllm_dsocr import __version__

# name: ("module:function", what it does). The function takes the arguments behind the name and
# returns the exit code.
COMMANDS = {
    "convert": ("vllm_dsocr.cli.convert:main", "read files and folders into documents"),
    "serve": ("vllm_dsocr.cli.serve:main", "serve a model with vLLM"),
    "doctor": ("vllm_dsocr.plugin.doctor.checks:main", "what will be in force, and what is wrong"),
    "train": ("vllm_dsocr.cli.train:main", "fine-tune on pages with their text"),
    "lora": ("vllm_dsocr.cli.lora:main", "check and merge adapters"),
    "eval": ("vllm_dsocr.cli.eval:main", "hold texts against the truth"),
    "plan": ("vllm_dsocr.cli.plan:main", "what the model costs to run"),
    "view": ("vllm_dsocr.cli.view:main", "look at converted pages beside their text"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand; 2 for one that does not exist."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"dsocr {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"dsocr: no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    return _load(COMMANDS[name][0])(rest)


def _help() -> str:
    lines = [f"  {name:<9} {about}" for name, (_, about) in COMMANDS.items()]
    head = ["usage: dsocr COMMAND ...", "", "DeepSeek-OCR: pages in, documents out.", ""]
    return "\n".join([*head, *lines, "", "dsocr COMMAND --help tells more."])


def _load(place: str) -> Callable[[Sequence[str]], int]:
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)
