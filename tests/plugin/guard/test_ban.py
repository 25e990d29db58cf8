"""Bans on the device against the pure rule: torch here, the Triton kernel in its interpreter.

Run as a script, this file checks the kernel; TRITON_INTERPRET=1 lets it run without a GPU.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from vllm_dsocr.plugin.guard import ban_torch
from vllm_dsocr.plugin.guard.ban_torch import RULE_WIDTH, Limits, RowTokens
from vllm_dsocr.repetition import MAX_INT, NGramGuard, NGramRule

NUM_SLOTS = 8
HISTORY = 200
MAX_SIZE = 6


@dataclass
class Case:
    """A batch in which requests own several rows, the output and the legal tokens of each row."""

    rules: list[NGramRule | None]  # of the slots
    rows: RowTokens
    outputs: list[list[int]]  # of the rows
    legal: list[list[int]]  # of the rows: what a grammar, or the like, has left
    vocabulary: int
    num_spared: int = 0  # rows in which all that was legal had to be banned, so nothing is

    @property
    def table(self) -> torch.Tensor:
        table = torch.zeros((NUM_SLOTS, RULE_WIDTH), dtype=torch.int32)
        for slot, rule in enumerate(self.rules):
            if rule is not None and rule.can_ban:
                exempt = sorted(rule.whitelist)
                row = [rule.size, rule.window or MAX_INT, len(exempt), *exempt]
                table[slot, : len(row)] = torch.tensor(row)
        return table

    @property
    def largest(self) -> Limits:
        num_exempt = max(len(rule.whitelist) for rule in self.rules if rule)
        return Limits(MAX_SIZE, max(map(len, self.outputs)) or 1, num_exempt)

    def check(self, ban_repeats: Callable[..., None], device: str = "cpu") -> int:
        """Raises AssertionError at the first difference; the number of bans."""
        logits = torch.full((len(self.outputs), self.vocabulary), -torch.inf)
        for row, legal in enumerate(self.legal):
            logits[row, legal] = torch.randn(len(legal))
        want = logits.clone()
        for row, (slot, output) in enumerate(zip(self.rows.slots, self.outputs, strict=True)):
            if rule := self.rules[slot]:
                banned = list(NGramGuard(rule, output).banned())
                spared = set(self.legal[row]) <= set(banned)
                self.num_spared += spared
                want[row, [] if spared else banned] = -torch.inf
        got = logits.clone().to(device)
        rows = RowTokens(*(tensor.to(device) for tensor in self.rows))
        ban_repeats(got, self.table.to(device), rows, self.largest)
        assert torch.equal(got.cpu(), want)
        return int((torch.isinf(want) & ~torch.isinf(logits)).sum())


def random_case(seed: int) -> Case:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    vocabulary = rng.choice((2, 3, 5, 40))
    history = torch.randint(0, vocabulary, (NUM_SLOTS, HISTORY), dtype=torch.int32)
    prompt_len = torch.tensor([rng.randrange(1, 20) for _ in range(NUM_SLOTS)], dtype=torch.int32)
    output_len = torch.tensor([rng.randrange(150) for _ in range(NUM_SLOTS)], dtype=torch.int32)
    total_len = prompt_len + output_len
    slots, num_drafts, input_ids, outputs = [], [], [], []
    for slot in rng.sample(range(NUM_SLOTS), rng.randrange(1, NUM_SLOTS + 1)):
        committed = history[slot, prompt_len[slot] : total_len[slot]].tolist()
        drafts = [rng.randrange(vocabulary) for _ in range(rng.randrange(4))]
        for before in range(len(drafts) + 1):
            slots.append(slot)
            num_drafts.append(before)
            outputs.append(committed + drafts[:before])
        input_ids += [int(history[slot, total_len[slot] - 1]), *drafts]
    rows = RowTokens(
        slots=torch.tensor(slots, dtype=torch.int32),
        num_drafts=torch.tensor(num_drafts, dtype=torch.int32),
        input_ids=torch.tensor(input_ids, dtype=torch.int32),
        history=history,
        prompt_len=prompt_len,
        total_len=total_len,
    )
    rules = [random_rule(rng, vocabulary) for _ in range(NUM_SLOTS)]
    legal = [random_legal(rng, vocabulary) for _ in outputs]
    return Case(rules, rows, outputs, legal, vocabulary)


def random_legal(rng: random.Random, vocabulary: int) -> list[int]:
    kept = rng.randrange(1, vocabulary) if rng.random() < 0.3 else vocabulary
    return rng.sample(range(vocabulary), kept)


def long_case() -> Case:
    """A history of several thousand tokens without a window, and a vocabulary of as many."""
    rng, vocabulary, length = random.Random(0), 5000, 4000
    output = [rng.randrange(vocabulary) for _ in range(length - 3)]
    output += output[1000:1003]
    rows = RowTokens(
        slots=torch.zeros(1, dtype=torch.int32),
        num_drafts=torch.zeros(1, dtype=torch.int32),
        input_ids=torch.tensor(output[-1:], dtype=torch.int32),
        history=torch.tensor([[1, *output]], dtype=torch.int32),
        prompt_len=torch.ones(1, dtype=torch.int32),
        total_len=torch.tensor([1 + length], dtype=torch.int32),
    )
    rules = [NGramRule(3), *[None] * (NUM_SLOTS - 1)]
    return Case(rules, rows, [output], [list(range(vocabulary))], vocabulary)


def random_rule(rng: random.Random, vocabulary: int) -> NGramRule | None:
    size = rng.randrange(MAX_SIZE + 1)
    exempt = frozenset(rng.sample(range(vocabulary), rng.randrange(3)))
    return NGramRule(size, rng.choice((None, 1, 3, 7, 20, 1_000)), exempt) if size else None


def check_all(ban_repeats: Callable[..., None], device: str = "cpu") -> None:
    cases = [random_case(seed) for seed in range(60)]
    assert sum(case.check(ban_repeats, device) for case in cases) > 70
    assert sum(case.num_spared for case in cases) > 5
    wide = long_case()
    assert wide.check(ban_repeats, device) > 0


def test_torch_bans_what_the_rule_bans() -> None:
    check_all(ban_torch.ban_repeats)


def test_the_kernel_bans_what_the_rule_bans() -> None:
    pytest.importorskip("triton")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    command = [sys.executable, __file__]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
def test_the_kernel_bans_the_same_on_a_gpu() -> None:
    from vllm_dsocr.plugin.guard import ban_triton

    check_all(ban_triton.ban_repeats, "cuda")


@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernel_compiles_for_gpus(capability: int) -> None:
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from vllm_dsocr.plugin.guard.ban_triton import BLOCK, VOCABULARY_BLOCK, _ban_repeats_kernel

    types = dict.fromkeys(_ban_repeats_kernel.arg_names, "*i32")
    types |= {"logits_ptr": "*fp32", "input_ids_ptr": "*i64", "HEAD": "constexpr"}
    types |= {"before_ptr": "*fp32", "vocabulary": "i32", "width": "i32"}
    types |= {name: "i32" for name in types if name.endswith("stride")}
    constants = {"HEAD": len(Limits._fields), "BLOCK": BLOCK, "VOCABULARY_BLOCK": VOCABULARY_BLOCK}
    source = ASTSource(
        _ban_repeats_kernel, types | dict.fromkeys(constants, "constexpr"), constants
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]


if __name__ == "__main__":
    from vllm_dsocr.plugin.guard import ban_triton

    check_all(ban_triton.ban_repeats)
