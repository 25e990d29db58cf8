"""The V2 guard over a life of slots: reuse, preemption, drafts, rows in any order."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm.v1.worker.gpu.sample.logits_processor")

from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

from tests.plugin.guard.requests import DEFAULT, KINDS, masked_logits, params_of, without
from vllm_dsocr.plugin.guard.logits_v2 import SlotGuards
from vllm_dsocr.repetition import NGramGuard, NGramRule

VOCABULARY = 5
NUM_SLOTS = 6
MAX_LEN = 256


def request_states() -> LogitsProcRequestState:
    """The runner's buffers; on the CPU plain tensors stand where it keeps device copies."""
    lengths = [SimpleNamespace(gpu=torch.zeros(NUM_SLOTS, dtype=torch.int32)) for _ in range(3)]
    return LogitsProcRequestState(
        device=torch.device("cpu"),
        max_num_reqs=NUM_SLOTS,
        vocab_size=VOCABULARY,
        all_token_ids=SimpleNamespace(gpu=torch.zeros((NUM_SLOTS, MAX_LEN), dtype=torch.int32)),
        prompt_len=lengths[0],
        prefill_len=lengths[1],
        total_len=lengths[2],
    )


@dataclass
class Request:
    kind: tuple[dict, NGramRule | None]
    prompt: list[int]
    output: list[int] = field(default_factory=list)
    drafts: list[int] = field(default_factory=list)


class Runner:
    """What the model runner does around the processor, with the tokens kept twice."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.states = request_states()
        self.guards = SlotGuards(self.states, DEFAULT)
        self.slots: dict[int, Request] = {}
        self.preempted: list[Request] = []

    def tokens(self, count: int) -> list[int]:
        return [self.rng.randrange(VOCABULARY) for _ in range(count)]

    def admit(self, request: Request) -> None:
        free = [slot for slot in range(NUM_SLOTS) if slot not in self.slots]
        slot = self.rng.choice(free)
        self.slots[slot] = request
        self.states.all_token_ids.gpu[slot] = torch.randint(0, VOCABULARY, (MAX_LEN,))
        self.states.prompt_len.gpu[slot] = len(request.prompt)
        fields, rule = request.kind
        assert self.guards.add_request(slot, params_of(fields)) == bool(rule and rule.can_ban)

    def change_batch(self) -> None:
        for slot in list(self.slots):
            fate = self.rng.random()
            if fate < 0.2:
                request = self.slots.pop(slot)
                if fate < 0.1:
                    self.preempted.append(request)
        while self.preempted and len(self.slots) < NUM_SLOTS:
            self.admit(self.preempted.pop())
        if len(self.slots) < NUM_SLOTS:
            self.admit(Request(self.rng.choice(KINDS), self.tokens(self.rng.randrange(1, 9))))

    def commit(self) -> None:
        for slot, request in self.slots.items():
            tokens = request.prompt + request.output
            self.states.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens)
            self.states.total_len.gpu[slot] = len(tokens)
        self.guards.apply_staged_writes()

    def context(self) -> tuple[LogitsContext, list[tuple[Request, list[int]]]]:
        """The layout of this step and, for each row, its request and output tokens."""
        order = self.rng.sample(sorted(self.slots), len(self.slots))
        rows, slots, local, ids = [], [], [], []
        for slot in order:
            request = self.slots[slot]
            request.drafts = self.tokens(self.rng.randrange(3))
            for before in range(len(request.drafts) + 1):
                rows.append((request, request.output + request.drafts[:before]))
                slots.append(slot)
                local.append(before)
            ids += [(request.prompt + request.output)[-1], *request.drafts]
        lengths = [len(request.prompt + output) for request, output in rows]
        per_request = [len(r.prompt + r.output + r.drafts) for r in map(self.slots.get, order)]
        context = LogitsContext(
            expanded_idx_mapping=torch.tensor(slots, dtype=torch.int32),
            idx_mapping=torch.tensor(order, dtype=torch.int32),
            idx_mapping_np=np.array(order, dtype=np.int32),
            expanded_local_pos=torch.tensor(local, dtype=torch.int32),
            input_ids=torch.tensor(ids, dtype=torch.int32),
            pos=torch.tensor(lengths) - 1,
            seq_lens_upper_bound_np=np.array(per_request, dtype=np.int32),
        )
        return context, rows


@pytest.mark.parametrize("seed", range(3))
def test_every_row_has_the_bans_of_its_history(seed: int) -> None:
    runner, num_bans = Runner(seed), 0
    for _ in range(120):
        runner.change_batch()
        runner.commit()
        context, rows = runner.context()
        logits = masked_logits(runner.rng, len(rows), VOCABULARY)
        before, want = logits.clone(), logits.clone()
        for row, (request, output) in enumerate(rows):
            if rule := request.kind[1]:
                want[row] = without(want[row], NGramGuard(rule, output).banned())
        assert torch.equal(runner.guards.apply(logits, context), want)
        num_bans += int((torch.isinf(want) & ~torch.isinf(before)).sum())
        for request in runner.slots.values():
            request.output += request.drafts[: runner.rng.randrange(3)] + runner.tokens(1)
    assert num_bans > 50


def test_a_batch_without_rules_is_left_alone() -> None:
    runner = Runner(0)
    runner.admit(Request(({"extra_args": {"ngram_size": 0}}, None), [1], [2] * 50))
    runner.commit()
    context, rows = runner.context()
    logits = torch.zeros(len(rows), VOCABULARY)
    assert runner.guards.apply(logits, context) is logits
    assert not torch.isinf(logits).any()
