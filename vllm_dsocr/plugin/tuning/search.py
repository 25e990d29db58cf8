"""Block sizes of a kernel -> better ones, one size at a time.

    start, choices by name, time of a configuration -> the fastest found

Of 2,000 combinations this tries about 40, since each has to be compiled. Knows no kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

Config = dict[str, int]
Timing = Callable[[Config], float]
MOST_ROUNDS = 3


def fastest_config(
    start: Config, choices: Mapping[str, Sequence[int]], timing: Timing
) -> tuple[Config, float]:
    """The configuration and its time; `timing` gives infinity for what does not run.

    Every name is varied in turn with the others held, until a round changes nothing.
    """
    known: dict[tuple[tuple[str, int], ...], float] = {}

    def seconds(config: Config) -> float:
        key = tuple(sorted(config.items()))
        if key not in known:
            known[key] = timing(config)
        return known[key]

    best = dict(start)
    for _ in range(MOST_ROUNDS):
        before = dict(best)
        for name, values in choices.items():
            best = min([best, *({**best, name: value} for value in values)], key=seconds)
        if best == before:
            break
    return best, seconds(best)


def runs(seconds: float) -> bool:
    """Whether a configuration did."""
    return math.isfinite(seconds)
