"""What vLLM adds where it is installed: the guard behind its interface, its tuned MoE kernels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.gpu.bench import Bench, Row
from benchmarks.gpu.guard import EXEMPT, SETTINGS, VOCABULARY, outputs, rows_of
from vllm_dsocr.plan.sizes import DecoderSizes
from vllm_dsocr.repetition import NGramRule


def run(bench: Bench) -> Iterator[Row]:
    """One sentence where vLLM is missing."""
    try:
        from vllm_dsocr.plugin.guard import logits_v2
    except ImportError as error:
        yield Row("vLLM", note=f"skipped: {error}")
        return
    for setting in SETTINGS:
        yield guard_step(bench, logits_v2.SlotGuards, *setting)
    if bench.is_cuda:
        from vllm_dsocr.plugin.doctor.facts import untuned_moe

        missing = untuned_moe(DecoderSizes())
        yield Row("vLLM: tuned MoE kernels", note=f"no {missing}" if missing else "found")


def guard_step(bench: Bench, guards_of: type, size: int, window: int, length: int) -> Row:
    """A decoding step as Model Runner V2 asks for it, host and launch included."""
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState

    count, vocabulary = (8, 1_000) if bench.small else (256, VOCABULARY)
    rows = rows_of(outputs(random.Random(0), count, length, vocabulary), bench.device)
    states = LogitsProcRequestState(
        device=bench.device,
        max_num_reqs=count,
        vocab_size=vocabulary,
        all_token_ids=SimpleNamespace(gpu=rows.history),
        prompt_len=SimpleNamespace(gpu=rows.prompt_len),
        prefill_len=SimpleNamespace(gpu=rows.prompt_len),
        total_len=SimpleNamespace(gpu=rows.total_len),
    )
    guards = guards_of(states, NGramRule(size, window, EXEMPT))
    admit(guards, count)
    context = LogitsContext(
        expanded_idx_mapping=rows.slots,
        idx_mapping=rows.slots,
        idx_mapping_np=np.arange(count, dtype=np.int32),
        expanded_local_pos=rows.num_drafts,
        input_ids=rows.input_ids,
        pos=rows.total_len - 1,
        seq_lens_upper_bound_np=rows.total_len.cpu().numpy(),
    )
    logits = bench.random(count, vocabulary, dtype=torch.float32)
    seconds = bench.wall_seconds(lambda: guards.apply(logits, context))
    return Row(f"vLLM, guard: {size}/{window}", seconds, note=f"batch {count}, host included")


def admit(guards: object, count: int) -> None:
    from vllm import SamplingParams

    for slot in range(count):
        guards.add_request(slot, SamplingParams())
    guards.apply_staged_writes()
