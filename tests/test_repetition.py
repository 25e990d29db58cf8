"""The rule against a search that reads like its definition, and against transformers' processor."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator

import pytest

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
    guard = NGramGuard(rule)
    for end, token in enumerate(tokens, start=1):
        assert set(guard.push(token)) == search(tokens[:end], rule)


@pytest.mark.parametrize("size", [2, 3, 7])
def test_whole_history_equals_transformers(size: int) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    processor = transformers.NoRepeatNGramLogitsProcessor(size)
    rng = random.Random(size)
    tokens = [rng.randrange(4) for _ in range(120)]
    guard = NGramGuard(NGramRule(size))
    for end, token in enumerate(tokens, start=1):
        scores = processor(torch.tensor([tokens[:end]]), torch.zeros(1, 4))
        banned = torch.isinf(scores[0]).nonzero().flatten().tolist()
        assert sorted(guard.push(token)) == banned


def test_no_n_gram_repeats_in_what_the_guard_lets_through() -> None:
    rng = random.Random(1)
    guard, tokens, banned = NGramGuard(NGramRule(3, 20)), [], set()
    for _ in range(2_000):
        tokens.append(rng.choice([token for token in range(6) if token not in banned]))
        banned = set(guard.push(tokens[-1]))
    for end in range(20, len(tokens) + 1):
        ngrams = [tuple(tokens[i : i + 3]) for i in range(end - 20, end - 2)]
        assert len(set(ngrams)) == len(ngrams)


def test_a_collision_of_hashes_bans_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm_dsocr import repetition

    monkeypatch.setattr(repetition, "_PRIME", 3)  # all prefixes fall into three bins
    for rule, tokens in random_rules(seed=2, count=40):
        assert set(NGramGuard(rule).extend(tokens)) == search(tokens, rule)


def test_memory_follows_the_window_not_the_history() -> None:
    rng = random.Random(3)
    guard = NGramGuard(NGramRule(4, 50))
    guard.extend(rng.randrange(1_000) for _ in range(20_000))
    filed = len(guard._recent) + len(guard._older)
    assert filed <= 2 * 50


def test_a_token_costs_the_same_late_and_in_a_wide_window() -> None:
    """Counted in Python calls and lines, which time does not blur."""
    narrow = lines_of_one_push(NGramRule(20, 90), history=200)
    assert narrow > 0
    assert lines_of_one_push(NGramRule(20, 8192), history=8_000) == narrow
    assert lines_of_one_push(NGramRule(20), history=8_000) == narrow


def lines_of_one_push(rule: NGramRule, history: int) -> int:
    rng = random.Random(4)
    guard = NGramGuard(rule)
    guard.extend(rng.randrange(100_000) for _ in range(history))
    lines = 0

    def count(frame: object, event: str, argument: object) -> object:
        nonlocal lines
        lines += event == "line"
        return count

    previous = sys.gettrace()
    sys.settrace(count)
    guard.push(5)
    sys.settrace(previous)
    return lines


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
