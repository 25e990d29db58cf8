"""Output token ids -> ids that may not come next, under the no-repeat n-gram rule.

    options of a request -> NGramRule -> NGramGuard.push(token) -> banned ids

The cost of a token depends neither on the window nor on the length of the history. Knows nothing of
tokenizers, logits or hosts; standard library only.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from vllm_dsocr.config import OptionError

NGRAM_OPTIONS = ("ngram_size", "window_size", "whitelist_token_ids")

# Window of a request that states only its n-gram size, as in the published processors.
UNSTATED_WINDOW = 100
MAX_WHITELIST = 1024  # ids a request may exempt
MAX_INT = 2**31 - 1  # ids and sizes are 32-bit integers on the device

# Prefixes are found by a polynomial hash modulo a prime. Every hit is compared token by token, so a
# collision costs time only, and the random base keeps collisions out of anybody's reach.
_PRIME = 2**61 - 1
_BASE = random.SystemRandom().randrange(2**32, _PRIME)


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
    """One sequence under a rule: takes its tokens one by one, says what is banned after each.

    For every prefix of size - 1 tokens it remembers the positions of the tokens that followed, the
    latest of each. Memory is that of two windows: positions are filed in `_recent`, which becomes
    `_older` when it holds a window's worth; what was in `_older` then lies outside the window.
    """

    __slots__ = (
        "_code", "_leaving_weight", "_older", "_prefix", "_recent", "_span", "_tokens", "_whitelist"
    )  # fmt: skip

    def __init__(self, rule: NGramRule) -> None:
        # A prefix that no sequence is long enough for makes a rule without bans.
        self._prefix = rule.size - 1 if rule.can_ban else sys.maxsize
        self._span = rule.window or sys.maxsize
        self._whitelist = rule.whitelist
        self._leaving_weight = pow(_BASE, self._prefix, _PRIME)
        self._tokens: list[int] = []
        self._code = 0  # hash of the last size - 1 tokens
        self._recent: dict[int, list[int]] = {}
        self._older: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """How many tokens it has taken."""
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> Collection[int]:
        """Takes tokens in order; the ids banned after the last, none for no tokens."""
        banned: Collection[int] = ()
        for token in tokens:
            banned = self.push(token)
        return banned

    def push(self, token: int) -> Collection[int]:
        """Takes the next token of the sequence; the ids banned as its successor."""
        tokens, code = self._tokens, self._code
        position = len(tokens)
        tokens.append(token)
        leaving = position - self._prefix
        if leaving < 0:
            self._code = (code * _BASE + token) % _PRIME
            return ()
        if token not in self._whitelist:
            self._file(code, position)
        code = (code * _BASE + token - tokens[leaving] * self._leaving_weight) % _PRIME
        self._code = code
        recent, older = self._recent.get(code), self._older.get(code)
        return self._followers(recent, older) if recent or older else ()

    def _file(self, code: int, position: int) -> None:
        """Remembers that the token at `position` follows the prefix of this hash."""
        known = self._recent.get(code)
        if known is None:
            if len(self._recent) >= self._span:
                self._older, self._recent = self._recent, {}
            self._recent[code] = [position]
            return
        ngram = self._ngram(position)
        self._recent[code] = [p for p in known if self._ngram(p) != ngram] + [position]

    def _ngram(self, position: int) -> list[int]:
        return self._tokens[position - self._prefix : position + 1]

    def _followers(self, *filed: list[int] | None) -> set[int]:
        """Tokens that followed an earlier copy of the current prefix inside the window."""
        tokens, size = self._tokens, self._prefix
        prefix, start = tokens[-size:], len(tokens) - self._span
        return {
            tokens[position]
            for positions in filed
            for position in positions or ()
            if position - size >= start and tokens[position - size : position] == prefix
        }
