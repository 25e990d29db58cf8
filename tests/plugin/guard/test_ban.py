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
    """A batch in which requests own several rows, and the output tokens of each row."""

    rules: list[NGramRule | None]  # of the slots
    rows: RowTokens
    outputs: list[list[int]]  # of the rows
    vocabulary: int

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
        logits = torch.randn(len(self.outputs), self.vocabulary)
        want = logits.clone()
        for row, (slot, output) in enumerate(zip(self.rows.slots, self.outputs, strict=True)):
            if rule := self.rules[slot]:
                want[row, list(NGramGuard(rule, output).banned())] = -torch.inf
        got = logits.to(device)
        rows = RowTokens(*(tensor.to(device) for tensor in self.rows))
        ban_repeats(got, self.table.to(device), rows, self.largest)
        assert torch.equal(got.cpu(), want)
        return int(torch.isinf(want).sum())


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
    return Case([random_rule(rng, vocabulary) for _ in range(NUM_SLOTS)], rows, outputs, vocabulary)


def random_rule(rng: random.Random, vocabulary: int) -> NGramRule | None:
    size = rng.randrange(MAX_SIZE + 1)
    exempt = frozenset(rng.sample(range(vocabulary), rng.randrange(3)))
    return NGramRule(size, rng.choice((None, 1, 3, 7, 20, 1_000)), exempt) if size else None


def check_all(ban_repeats: Callable[..., None], device: str = "cpu") -> None:
    assert sum(random_case(seed).check(ban_repeats, device) for seed in range(40)) > 100


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

    from vllm_dsocr.plugin.guard.ban_triton import BLOCK, _ban_repeats_kernel

    types = dict.fromkeys(_ban_repeats_kernel.arg_names, "*i32")
    types |= {"logits_ptr": "*fp32", "input_ids_ptr": "*i64", "HEAD": "constexpr"}
    types |= {name: "i32" for name in types if name.endswith("stride")}
    types["BLOCK"] = "constexpr"
    source = ASTSource(_ban_repeats_kernel, types, {"HEAD": len(Limits._fields), "BLOCK": BLOCK})
    compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]


if __name__ == "__main__":
    from vllm_dsocr.plugin.guard import ban_triton

    check_all(ban_triton.ban_repeats)
