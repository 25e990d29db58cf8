"""The rule against a search that reads like its definition, and against transformers' processor."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest

from vllm_dsocr import repetition
from vllm_dsocr.config import OptionError
from vllm_dsocr.repetition import MAX_WHITELIST, NGramGuard, NGramRule, rule_from_options


def search(tokens: list[int], rule: NGramRule) -> set[int]:
    """The definition: look at every n-gram of the window."""
    window = tokens[-rule.window :] if rule.window else tokens
    prefix = tokens[len(tokens) - rule.size + 1 :]
    if rule.size == 1 or len(tokens) < rule.size:
        return set()
    ngrams = [window[i : i + rule.size] for i in range(len(window) - rule.size + 1)]
    return {ngram[-1] for ngram in ngrams if ngram[:-1] == prefix} - rule.whitelist


def random_rules(seed: int, count: int) -> Iterator[tuple[NGramRule, list[int]]]:
    rng = random.Random(seed)
    for _ in range(count):
        vocabulary = rng.choice((1, 2, 3, 6, 40))
        exempt = frozenset(rng.sample(range(vocabulary), rng.randrange(min(3, vocabulary + 1))))
        window = rng.choice((None, 1, 2, 5, 17, 60, 400))
        rule = NGramRule(rng.randrange(1, 9), window, exempt)
        yield rule, [rng.randrange(vocabulary) for _ in range(rng.randrange(150))]


@pytest.mark.parametrize(("rule", "tokens"), random_rules(seed=0, count=150))
def test_every_step_equals_the_search(rule: NGramRule, tokens: list[int]) -> None:
    seen: list[int] = []
    guard = NGramGuard(rule, seen)
    for token in tokens:
        seen.append(token)
        assert set(guard.banned()) == search(seen, rule)


@pytest.mark.parametrize(("rule", "tokens"), random_rules(seed=5, count=30))
def test_tokens_may_come_in_any_portions(rule: NGramRule, tokens: list[int]) -> None:
    rng, seen = random.Random(len(tokens)), []
    guard = NGramGuard(rule, seen)
    while len(seen) < len(tokens):
        seen += tokens[len(seen) :][: rng.randrange(9)]
        assert set(guard.banned()) == search(seen, rule)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_whole_history_equals_transformers(size: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    processor = transformers.NoRepeatNGramLogitsProcessor(size)
    rng = random.Random(size)
    tokens = [rng.randrange(4) for _ in range(120)]
    seen: list[int] = []
    guard = NGramGuard(NGramRule(size), seen)
    for token in tokens:
        seen.append(token)
        scores = processor(torch.tensor([seen]), torch.zeros(1, 4))
        banned = torch.isinf(scores[0]).nonzero().flatten().tolist()
        assert sorted(guard.banned()) == banned


def test_no_n_gram_repeats_in_what_the_guard_lets_through() -> None:
    rng = random.Random(1)
    tokens: list[int] = []
    guard = NGramGuard(NGramRule(3, 20), tokens)
    for _ in range(2_000):
        banned = guard.banned()
        tokens.append(rng.choice([token for token in range(6) if token not in banned]))
    for end in range(20, len(tokens) + 1):
        ngrams = [tuple(tokens[i : i + 3]) for i in range(end - 20, end - 2)]
        assert len(set(ngrams)) == len(ngrams)


def test_colliding_hashes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repetition, "_PRIME", 3)  # all prefixes fall into three bins
    monkeypatch.setattr(repetition, "_weight", lambda prefix: repetition._BASE**prefix)
    for rule, tokens in random_rules(seed=2, count=40):
        if rule.can_ban:
            assert set(NGramGuard(rule, tokens).banned()) == search(tokens, rule)


def test_an_unknown_last_token_bans_nothing() -> None:
    tokens = [3, 4, 3]
    guard = NGramGuard(NGramRule(2), tokens)
    assert set(guard.banned()) == {4}
    tokens.append(-1)
    assert not guard.banned()
    tokens[-1:] = [2, 3]
    assert set(guard.banned()) == {4, 2}
    assert set(guard.banned()) == {4, 2}


def test_tokens_taken_back_are_forgotten() -> None:
    tokens = [3, 4, 3, 2, 3]
    guard = NGramGuard(NGramRule(2), tokens)
    assert set(guard.banned()) == {4, 2}
    del tokens[3:]
    assert set(guard.banned()) == {4}


def test_memory_follows_the_window_not_the_history() -> None:
    rng = random.Random(3)
    guard = NGramGuard(NGramRule(4, 50), [rng.randrange(1_000) for _ in range(20_000)])
    guard.banned()
    assert len(guard._filed) <= 2 * 50


def test_a_token_costs_the_same_late_and_in_a_wide_window() -> None:
    """Counted in lines of Python over a whole text, which a busy machine does not blur."""
    usual = lines_per_token(NGramRule(20, 90), history=2_000)
    assert lines_per_token(NGramRule(20, 90), history=6_000) == pytest.approx(usual, rel=0.1)
    assert lines_per_token(NGramRule(20, 4_000), history=6_000) <= usual
    assert lines_per_token(NGramRule(20), history=6_000) <= usual


def lines_per_token(rule: NGramRule, history: int) -> float:
    rng = random.Random(4)
    guard = NGramGuard(rule, [rng.randrange(100_000) for _ in range(history)])
    lines = 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal lines
        lines += event == "line"
        return count

    previous = sys.gettrace()
    sys.settrace(count)
    guard.banned()
    sys.settrace(previous)
    return lines / history


def test_options_go_over_the_default_one_by_one() -> None:
    default = NGramRule(30, 90, frozenset({7, 8}))
    assert rule_from_options({}, default) == default
    assert rule_from_options({"ngram_size": 20}, default) == NGramRule(20, 90, default.whitelist)
    assert rule_from_options({"window_size": 50, "other": 1}, default).window == 50
    assert rule_from_options({"whitelist_token_ids": []}, default) == NGramRule(30, 90)
    assert rule_from_options({"ngram_size": None}, default) == default
    assert rule_from_options({"ngram_size": 0}, default) is None


def test_without_a_default_only_a_size_makes_a_rule() -> None:
    assert rule_from_options({}) is None
    assert rule_from_options({"window_size": 90}) is None
    assert rule_from_options({"ngram_size": 3}) == NGramRule(3, 100)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ngram_size": "x"}, "ngram_size"),
        ({"ngram_size": -1}, "ngram_size"),
        ({"ngram_size": 2.0}, "ngram_size"),
        ({"ngram_size": True}, "ngram_size"),
        ({"ngram_size": 2**40}, "ngram_size"),
        ({"ngram_size": 257}, "ngram_size may be 256 at most, got 257"),
        ({"window_size": 0}, "window_size"),
        ({"window_size": -5, "ngram_size": 3}, "window_size"),
        ({"window_size": [90]}, "window_size"),
        ({"ngram_size": 0, "window_size": "wide"}, "window_size"),
        ({"whitelist_token_ids": 5}, "whitelist_token_ids"),
        ({"whitelist_token_ids": "<td>"}, "whitelist_token_ids"),
        ({"whitelist_token_ids": {"5": 1}}, "whitelist_token_ids"),
        ({"whitelist_token_ids": [1, "2"]}, "whitelist_token_ids"),
        ({"whitelist_token_ids": [-1]}, "whitelist_token_ids"),
        ({"whitelist_token_ids": [2**31]}, "whitelist_token_ids"),
        ({"whitelist_token_ids": [[1]]}, "whitelist_token_ids"),
        ({"whitelist_token_ids": list(range(MAX_WHITELIST + 1))}, "whitelist_token_ids"),
    ],
)
def test_a_bad_option_is_named(options: dict[str, object], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        rule_from_options(options)


@pytest.mark.parametrize("size", [0, -1, 2.0])
def test_a_rule_has_a_size(size: object) -> None:
    with pytest.raises(OptionError, match="ngram_size"):
        NGramRule(size)
