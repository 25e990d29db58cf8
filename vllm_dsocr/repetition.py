"""Output token ids -> ids that may not come next, under the no-repeat n-gram rule.

    options of a request -> NGramRule;  rule, growing list of tokens -> NGramGuard.banned()

The cost of a token depends neither on the window nor on the length of the history. Knows nothing of
tokenizers, logits or hosts; standard library only.
"""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_dsocr.config import OptionError

NGRAM_OPTIONS = ("ngram_size", "window_size", "whitelist_token_ids")

# Window of a request that states only its n-gram size, as in the published processors.
UNSTATED_WINDOW = 100
# Bounds of what a request may ask for: on a GPU a step of the whole batch waits for the row that is
# dearest, and text can be made to agree with itself for as long as an n-gram is.
MAX_NGRAM_SIZE = 256
MAX_WHITELIST = 128  # ids it may exempt
MAX_INT = 2**31 - 1  # ids and sizes are 32-bit integers on the device

# Prefixes are found by a polynomial hash modulo a prime small enough for Python's fast integers.
# Every hit is compared token by token, so a collision costs time only, and with a base drawn at
# random nobody can bring collisions about.
_PRIME = 2**30 - 35
_BASE = random.SystemRandom().randrange(2**28, _PRIME)


@dataclass(frozen=True, slots=True)
class NGramRule:
    """No `size` consecutive tokens twice among the last `window` tokens (None: the whole history).

    A token of `whitelist` is never banned. With size 1 nothing is, as in the published processors.
    Raises OptionError for sizes below 1.
    """

    size: int
    window: int | None = None
    whitelist: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        _require_int("ngram_size", self.size, 1)
        if self.window is not None:
            _require_int("window_size", self.window, 1)

    @property
    def can_ban(self) -> bool:
        """Whether any history at all leads to a ban."""
        return self.size > 1 and (self.window is None or self.size <= self.window)


def rule_from_options(
    options: Mapping[str, Any], default: NGramRule | None = None
) -> NGramRule | None:
    """The rule for a request: its options (keys of NGRAM_OPTIONS, others ignored) over `default`.

    None where nothing is banned: ngram_size 0, or no size anywhere. Raises OptionError naming the
    option that cannot be honoured.
    """
    stated = {key: options[key] for key in NGRAM_OPTIONS if options.get(key) is not None}
    size = stated.get("ngram_size", default.size if default else 0)
    window = stated.get("window_size", default.window if default else UNSTATED_WINDOW)
    whitelist = stated.get("whitelist_token_ids", default.whitelist if default else ())
    _require_int("ngram_size", size, 0)
    if size > MAX_NGRAM_SIZE:
        raise OptionError(f"ngram_size may be {MAX_NGRAM_SIZE} at most, got {size}")
    if window is not None:
        _require_int("window_size", window, 1)
    exempt = _token_ids("whitelist_token_ids", whitelist)
    return NGramRule(size, window, exempt) if size else None


def _require_int(name: str, value: object, low: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= MAX_INT:
        raise OptionError(f"{name} must be an integer from {low} to {MAX_INT}, got {value!r}")


def _token_ids(name: str, values: object) -> frozenset[int]:
    if not isinstance(values, (list, tuple, set, frozenset)):
        raise OptionError(f"{name} must be a list of token ids, got {values!r}")
    if len(values) > MAX_WHITELIST:
        raise OptionError(f"{name} may hold {MAX_WHITELIST} ids, got {len(values)}")
    for value in values:
        _require_int(f"{name}: a token id", value, 0)
    return frozenset(values)


class NGramGuard:
    """One sequence under a rule: follows a growing list of tokens, says what may not come next.

    tokens: the sequence, owned and appended to by the caller. A negative id holds the place of a
    token that is not known yet; until it is, nothing is banned. Tokens may also be taken back.

    For every prefix of size - 1 tokens it files the positions where a token followed, the latest
    for each token: a bare position in the usual case of one. What has left the window is swept out
    once in a window's length, so a token's share of that is constant too.
    """

    __slots__ = (
        "_banned", "_code", "_filed", "_prefix", "_span", "_taken", "_tokens", "_weight",
        "_whitelist",
    )  # fmt: skip

    def __init__(self, rule: NGramRule, tokens: list[int]) -> None:
        self._tokens = tokens
        # A prefix that no sequence is long enough for makes a rule without bans.
        self._prefix = rule.size - 1 if rule.can_ban else sys.maxsize
        self._span = rule.window or sys.maxsize
        self._whitelist = rule.whitelist
        self._weight = _weight(self._prefix)
        self._start_over()

    def _start_over(self) -> None:
        self._taken = 0  # how many tokens of the list are filed
        self._code = 0  # hash of the last size - 1 of them
        self._banned: Collection[int] = ()
        self._filed: dict[int, int | tuple[int, ...]] = {}

    def banned(self) -> Collection[int]:
        """Ids that may not follow the tokens now in the list."""
        tokens = self._tokens
        if len(tokens) < self._taken:
            self._start_over()
        while self._taken < len(tokens):
            token = tokens[self._taken]
            if token < 0:
                return ()
            self._take(token)
        return self._banned

    def _take(self, token: int) -> None:
        position, code, filed = self._taken, self._code, self._filed
        self._taken = position + 1
        if position < self._prefix:
            self._code = (code * _BASE + token) % _PRIME
            return
        if token not in self._whitelist:
            filed[code] = self._latest(filed[code], position) if code in filed else position
            if len(filed) > 2 * self._span:
                self._sweep()
        leaving = self._tokens[position - self._prefix]
        self._code = code = (code * _BASE + token - leaving * self._weight) % _PRIME
        self._banned = self._followers(filed[code]) if code in filed else ()

    def _latest(self, known: int | tuple[int, ...], position: int) -> tuple[int, ...]:
        """`known` and `position`, which replaces the one where the same n-gram ended before."""
        ngram = self._ngram(position)
        return (*(end for end in _ends(known) if self._ngram(end) != ngram), position)

    def _ngram(self, end: int) -> list[int]:
        return self._tokens[end - self._prefix : end + 1]

    def _followers(self, known: int | tuple[int, ...]) -> set[int]:
        """Tokens that followed an earlier copy of the current prefix inside the window."""
        tokens, size = self._tokens, self._prefix
        prefix, start = tokens[self._taken - size : self._taken], self._taken - self._span
        return {
            tokens[end]
            for end in _ends(known)
            if end - size >= start and tokens[end - size : end] == prefix
        }

    def _sweep(self) -> None:
        first = self._taken - self._span + self._prefix  # where a whole n-gram can end
        for code in [code for code, known in self._filed.items() if _ends(known)[-1] < first]:
            del self._filed[code]


def _ends(known: int | tuple[int, ...]) -> tuple[int, ...]:
    return known if isinstance(known, tuple) else (known,)


@functools.lru_cache
def _weight(prefix: int) -> int:
    """Share of a token in the hash when it leaves a prefix of this length."""
    return pow(_BASE, prefix, _PRIME)
