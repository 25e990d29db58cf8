"""The V1 guard in vLLM's own persistent batch, row by row against the pure rule."""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator
from itertools import count

import pytest
import torch

pytest.importorskip("vllm")

from vllm.v1.sample.logits_processor import LogitsProcessors
from vllm.v1.worker.gpu_input_batch import CachedRequestState, InputBatch

from tests.plugin.guard.requests import DEFAULT, KINDS, masked_logits, params_of, without
from vllm_dsocr.plugin.guard.logits_v1 import PROBE, BatchGuards
from vllm_dsocr.repetition import NGramGuard

VOCABULARY = 5


def persistent_batch(guards: BatchGuards, max_num_reqs: int) -> InputBatch:
    known = inspect.signature(InputBatch).parameters
    arguments = {
        "max_num_reqs": max_num_reqs,
        "max_model_len": 256,
        "max_num_batched_tokens": 256,
        "device": torch.device("cpu"),
        "vocab_size": VOCABULARY,
        "block_sizes": [16],
        "kernel_block_sizes": [16],
        "max_num_blocks_per_req": [16],
        "logitsprocs": LogitsProcessors([guards]),
        "logitsprocs_need_output_token_ids": True,
    }
    return InputBatch(**{name: value for name, value in arguments.items() if name in known})


def request(name: str, fields: dict, output_ids: list[int]) -> CachedRequestState:
    return CachedRequestState(
        req_id=name,
        prompt_token_ids=[1, 2, 3],
        mm_features=[],
        sampling_params=params_of(fields),
        generator=None,
        block_ids=([],),
        num_computed_tokens=0,
        output_token_ids=output_ids,
    )


def random_step(
    rng: random.Random, batch: InputBatch, states: dict[str, CachedRequestState], names: Iterator
) -> None:
    """Requests leave, come (some with output, as after preemption) and change places."""
    for name in list(states):
        if rng.random() < 0.15:
            batch.remove_request(name)
            del states[name]
    for _ in range(rng.randrange(3)):
        if len(states) < batch.max_num_reqs:
            earlier = [rng.randrange(VOCABULARY) for _ in range(rng.choice((0, 0, 20)))]
            state = request(f"request {next(names)}", rng.choice(KINDS)[0], earlier)
            states[state.req_id] = state
            batch.add_request(state)
    batch.condense()
    if len(states) > 1 and rng.random() < 0.3:
        batch.swap_states(*rng.sample(range(len(states)), 2))
    batch.refresh_metadata()


def expected(logits: torch.Tensor, batch: InputBatch, states: dict) -> torch.Tensor:
    logits = logits.clone()
    for row, name in enumerate(batch.req_ids):
        state = states[name]
        (rule,) = (r for fields, r in KINDS if params_of(fields) == state.sampling_params)
        if rule:
            banned = NGramGuard(rule, state.output_token_ids).banned()
            logits[row] = without(logits[row], banned)
    return logits


@pytest.mark.parametrize("seed", range(3))
def test_rows_keep_their_rule_through_moves(seed: int) -> None:
    rng = random.Random(seed)
    guards = BatchGuards(torch.device("cpu"), False, DEFAULT)
    batch, states, names = persistent_batch(guards, max_num_reqs=6), {}, count()
    num_bans = 0
    for _ in range(150):
        random_step(rng, batch, states, names)
        logits = masked_logits(rng, len(states), VOCABULARY)
        before = logits.clone()
        want = expected(logits, batch, states)
        got = guards.apply(logits)
        assert torch.equal(got, want)
        num_bans += (torch.isinf(want) & ~torch.isinf(before)).sum().item()
        for state in states.values():
            state.output_token_ids.append(rng.randrange(VOCABULARY))
    assert num_bans > 50


def test_tokens_of_the_step_under_way_are_read_once_known() -> None:
    """Async scheduling: at update_state the last token is a placeholder, at apply it is known."""
    guards = BatchGuards(torch.device("cpu"), False, None)
    batch = persistent_batch(guards, max_num_reqs=1)
    state = request("only", {"extra_args": {"ngram_size": 2}}, [])
    batch.add_request(state)
    for token, banned in [(3, []), (4, []), (3, [4]), (2, []), (3, [2, 4])]:
        state.output_token_ids.append(-1)
        batch.refresh_metadata()
        state.output_token_ids[-1] = token
        logits = guards.apply(torch.zeros(1, VOCABULARY))
        assert torch.isinf(logits[0]).nonzero().flatten().tolist() == banned


def test_other_requests_cost_nothing() -> None:
    guards = BatchGuards(torch.device("cpu"), False, None)
    batch = persistent_batch(guards, max_num_reqs=2)
    batch.add_request(request("plain", {}, [1, 1, 1]))
    batch.add_request(request("one", {"extra_args": {"ngram_size": 1}}, [1, 1, 1]))
    batch.refresh_metadata()
    logits = torch.zeros(2, VOCABULARY)
    assert torch.equal(guards.apply(logits), torch.zeros(2, VOCABULARY))
    assert not guards._rows


@pytest.mark.parametrize("legal", [3, PROBE + 3])
def test_the_only_legal_token_is_never_banned(legal: int) -> None:
    """Beside a row of the same ban that has another one left, wherever that is."""
    guards = BatchGuards(torch.device("cpu"), False, None)
    batch = persistent_batch(guards, max_num_reqs=2)
    for name in ("forced", "free"):
        batch.add_request(request(name, {"extra_args": {"ngram_size": 2}}, [legal] * 3))
    batch.refresh_metadata()
    logits = torch.full((2, 2 * PROBE), -torch.inf)
    logits[:, legal] = 5.0
    logits[1, PROBE + 7] = -3.0
    got = guards.apply(logits)
    assert got.argmax(dim=1).tolist() == [legal, PROBE + 7]
    assert got[0, legal] == 5.0 and torch.isinf(got[1, legal])
