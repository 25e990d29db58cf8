"""The repetition guard on the device: kernel and torch form against the pure rule, microseconds.

Rows of a batch of sequences; no vLLM. Knows the layout of `vllm_dsocr.plugin.guard.ban_torch`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Row
from vllm_dsocr.plugin.guard import ban_torch
from vllm_dsocr.plugin.guard.ban_torch import RULE_WIDTH, Limits, RowTokens
from vllm_dsocr.repetition import MAX_INT, NGramGuard, NGramRule

Ban = Callable[[Tensor, Tensor, RowTokens, Limits], None]
VOCABULARY = 129_280
# n-gram size, window, output tokens so far: the published recipe, and the whole history.
SETTINGS = ((30, 90, 1_000), (20, 8_192, 8_192))
MOST_SIZE = 8  # of an n-gram in the comparison; larger ones hardly repeat by chance
EXEMPT = frozenset({7, 8})
PROMPT = 64
LOOPING = 64  # one request in so many repeats itself, so there is something to ban
LOOP_LENGTH = 60
LAUNCHES = 20  # in one graph, so that its own launch hardly counts


def run(bench: Bench) -> Iterator[Row]:
    """Correctness, then time per step of every form that runs here."""
    forms = {"torch": ban_torch.ban_repeats}
    if bench.is_cuda and find_spec("triton"):
        from vllm_dsocr.plugin.guard import ban_triton

        forms["kernel"] = ban_triton.ban_repeats
    else:
        yield Row("guard, kernel", note="skipped: Triton has no device here")
    for name, ban in forms.items():
        yield Row(f"guard, {name}: wrong rows", error=wrong_rows(bench, ban), allowed=0)
    for setting in SETTINGS:
        for name, ban in forms.items():
            yield step(bench, name, ban, *setting)


def outputs(rng: random.Random, count: int, length: int, vocabulary: int) -> list[list[int]]:
    loop = [rng.randrange(vocabulary) for _ in range(LOOP_LENGTH)]
    return [
        [loop[i % LOOP_LENGTH] for i in range(length)]
        if row % LOOPING == 0
        else [rng.randrange(vocabulary) for _ in range(length)]
        for row in range(count)
    ]


def rows_of(sequences: list[list[int]], device: torch.device) -> RowTokens:
    """One row of logits per sequence, each behind a prompt of PROMPT tokens, without drafts."""
    longest = max(map(len, sequences))
    history = torch.zeros((len(sequences), PROMPT + longest), dtype=torch.int32)
    for row, tokens in zip(history, sequences, strict=True):
        row[PROMPT : PROMPT + len(tokens)] = torch.tensor(tokens, dtype=torch.int32)
    lengths = torch.tensor([PROMPT + len(tokens) for tokens in sequences], dtype=torch.int32)
    slots = torch.arange(len(sequences), dtype=torch.int32)
    tensors = RowTokens(
        slots=slots,
        num_drafts=torch.zeros_like(slots),
        input_ids=torch.tensor([tokens[-1] for tokens in sequences]),
        history=history,
        prompt_len=torch.full_like(slots, PROMPT),
        total_len=lengths,
    )
    return RowTokens(*(tensor.to(device) for tensor in tensors))


def table_of(rules: list[NGramRule], device: torch.device) -> Tensor:
    table = torch.zeros((len(rules), RULE_WIDTH), dtype=torch.int32)
    for target, rule in zip(table, rules, strict=True):
        if rule.can_ban:
            row = [rule.size, rule.window or MAX_INT, len(rule.whitelist), *sorted(rule.whitelist)]
            target[: len(row)] = torch.tensor(row)
    return table.to(device)


def wrong_rows(bench: Bench, ban: Ban, vocabulary: int = 4) -> int:
    """Rows of random text and random rules whose bans are not those of the pure rule."""
    rng = random.Random(0)
    count, longest = (16, 300) if bench.small else (256, 2_500)
    sequences = [
        [rng.randrange(vocabulary) for _ in range(rng.randrange(1, longest))] for _ in range(count)
    ]
    rules = [random_rule(rng, vocabulary) for _ in range(count)]
    want = torch.zeros(count, vocabulary)
    for row, (rule, tokens) in enumerate(zip(rules, sequences, strict=True)):
        want[row, list(NGramGuard(rule, tokens).banned())] = -torch.inf
    got = torch.zeros(count, vocabulary, device=bench.device)
    largest = Limits(MOST_SIZE, longest, num_exempt=1)
    ban(got, table_of(rules, bench.device), rows_of(sequences, bench.device), largest)
    return int((got.cpu() != want).any(dim=1).sum())


def random_rule(rng: random.Random, vocabulary: int) -> NGramRule:
    return NGramRule(
        size=rng.randrange(1, MOST_SIZE + 1),
        window=rng.choice((None, 5, 40, 2_000)),
        whitelist=frozenset(rng.sample(range(vocabulary), rng.randrange(2))),
    )


def step(bench: Bench, name: str, ban: Ban, size: int, window: int, length: int) -> Row:
    """One decoding step; its floor is one read of every row's window."""
    count, vocabulary = (8, 1_000) if bench.small else (256, VOCABULARY)
    rule = NGramRule(size, window, EXEMPT)
    rows = rows_of(outputs(random.Random(0), count, length, vocabulary), bench.device)
    table = table_of([rule] * count, bench.device)
    logits = bench.random(count, vocabulary, dtype=torch.float32)
    largest = Limits(size, window, len(EXEMPT))

    def call() -> None:
        ban(logits, table, rows, largest)

    seconds = bench.seconds(call)
    note = f"batch {count}; share of bandwidth"
    if bench.is_cuda:
        without = bench.seconds(bench.graphed(call, LAUNCHES)) / LAUNCHES
        note += f"; {without * 1e6:.1f} us without the launch"
    share = count * min(window, length) * rows.history.itemsize / seconds / bench.bandwidth
    return Row(f"guard, {name}: {size}/{window}", seconds, share=share, note=note)
