"""`--ray [ADDRESS]`: an option whose value may be left out before a path."""

from __future__ import annotations

import os
import re
from typing import Any

from typer.core import TyperCommand

ANY_CLUSTER = "any"  # what stands for an address that was left out
_ADDRESS = re.compile(r"(ray://)?([\w.-]+|\[[0-9A-Fa-f:]+\]):\d+")


def is_address(text: str) -> bool:
    """Whether a word behind `--ray` is a cluster's address and no path."""
    if text in ("auto", "local"):
        return True
    return bool(_ADDRESS.fullmatch(text)) and not os.path.exists(text)


class RayCommand(TyperCommand):
    """A command with that option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        words: list[str] = []
        for i, word in enumerate(args):
            words.append(word)
            if word == "--ray" and not is_address(args[i + 1] if i + 1 < len(args) else ""):
                words.append(ANY_CLUSTER)
        return super().parse_args(ctx, words)
