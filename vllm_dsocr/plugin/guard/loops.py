"""Sampling parameters at admission -> the same, ended by vLLM where the answer goes in circles.

Admission is the one place where vLLM shows each request to a package. An object that the caller
made is not touched: the copy that vLLM makes of it is.
"""

from __future__ import annotations

from vllm import SamplingParams
from vllm.sampling_params import RepetitionDetectionParams

from vllm_dsocr.config import OptionError

# The ban leaves one kind of short cycle, the cells of an empty table. vLLM compares every pattern
# size after each token, so a range of sizes is dear (30 us for 64 of them, 0.7 us for one); one
# size with many divisors covers cycles of 1 to 6, 10, 12, 15, 20, 30 and 60 tokens.
LOOP_TOKENS = 60
LOOP_TURNS = 4
# Comparisons for one token at worst. The engine's process makes about 5 a microsecond, and all
# requests wait for it: sizes up to 64 and 4 turns are 16,384 of them.
MOST_COMPARISONS = 1 << 16


def check_loops(params: SamplingParams) -> None:
    """Raises OptionError for a search that could hold up the engine: vLLM bounds none of it."""
    stated = params.repetition_detection
    if stated is None or not stated.max_pattern_size:
        return
    sizes = stated.max_pattern_size - max(1, stated.min_pattern_size) + 1
    if sizes * stated.max_pattern_size * stated.min_count > MOST_COMPARISONS:
        raise OptionError(
            "repetition_detection asks for too much: pattern sizes x max_pattern_size x min_count "
            f"may be {MOST_COMPARISONS} at most, got {sizes} x {stated.max_pattern_size} x "
            f"{stated.min_count}"
        )


def detect_loops(params: SamplingParams) -> None:
    """Has the answer ended after LOOP_TURNS turns, unless the request says what a loop is.

    Left alone are a request that turns the guard off by `ngram_size: 0`, one under a grammar, which
    may well ask for a loop, and the replay of a given answer.
    """
    if params.repetition_detection is not None or not _may_loop(params):
        return
    if params.skip_clone:  # made by the server for this request alone
        params.repetition_detection = _loops()
    else:
        _fill_in_the_copy(params)


def _may_loop(params: SamplingParams) -> bool:
    return (
        (params.extra_args or {}).get("ngram_size") != 0
        and params.structured_outputs is None
        and not getattr(params, "trace_decode_token_ids", None)
    )


def _loops() -> RepetitionDetectionParams:
    return RepetitionDetectionParams(
        max_pattern_size=LOOP_TOKENS, min_pattern_size=LOOP_TOKENS, min_count=LOOP_TURNS
    )


def _fill_in_the_copy(params: SamplingParams) -> None:
    """For the next `clone()`, which vLLM calls once it has admitted the request."""

    def clone() -> SamplingParams:
        vars(params).pop("clone", None)
        copy = params.clone()
        if copy.repetition_detection is None:
            copy.repetition_detection = _loops()
        return copy

    vars(params)["clone"] = clone
