"""Cost per decoding step of the repetition guard, beside the processor that vLLM ships.

    python -m benchmarks.guard [--batch 256] [--steps 20]

Both see the same output lists of the same batch and write to logits of the model's vocabulary; they
take turns step by step, so what else the machine does hits both. Prints a table and, as the last
line, one JSON object. Model Runner V1, on the CPU.
"""

from __future__ import annotations

import argparse
import ast
import json
import platform
import random
import statistics
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm import SamplingParams
from vllm.v1.sample import logits_processor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from vllm_dsocr.plugin.guard.logits_v1 import BatchGuards

VOCABULARY = 129_280
# (n-gram size, window, output tokens so far): the published recipe, and the whole history.
SETTINGS = {"30_90": (30, 90, 1_000), "20_8192": (20, 8_192, 8_192)}
LOOPING = 64  # one request in so many repeats itself, so both have something to ban
LOOP_LENGTH = 60


def shipped_processor() -> LogitsProcessor:
    """vLLM's own, taken out of its model file: importing that file wants torchvision."""
    path = Path(find_spec("vllm").origin).parent / "model_executor" / "models" / "deepseek_ocr.py"
    names = ("NoRepeatNGramLogitsProcessor", "NGramPerReqLogitsProcessor")
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if getattr(node, "name", None) in names]
    scope = {**vars(logits_processor), "torch": torch, "Iterable": Iterable}
    exec(compile(tree, str(path), "exec"), scope)  # source of the installed vLLM, no input
    return scope[names[1]](None, torch.device("cpu"), False)


def outputs(batch: int, length: int) -> list[list[int]]:
    rng = random.Random(0)
    loop = [rng.randrange(VOCABULARY) for _ in range(LOOP_LENGTH)]
    return [
        [loop[i % LOOP_LENGTH] for i in range(length)]
        if request % LOOPING == 0
        else [rng.randrange(VOCABULARY) for _ in range(length)]
        for request in range(batch)
    ]


def enter(processor: LogitsProcessor, options: dict[str, Any], histories: list[list[int]]) -> None:
    params = SamplingParams(extra_args=options)
    added = [(row, params, None, history) for row, history in enumerate(histories)]
    processor.update_state(BatchUpdate(len(added), removed=[], added=added, moved=[]))


def step_seconds(processor: LogitsProcessor, logits: torch.Tensor) -> float:
    """Of processor time, which waiting for a busy machine does not lengthen."""
    start = time.process_time()
    processor.update_state(None)
    processor.apply(logits)
    return time.process_time() - start


def measure(size: int, window: int, length: int, batch: int, steps: int) -> dict[str, float]:
    """Median milliseconds per step for the whole batch."""
    full = outputs(batch, length)
    histories = [output[: length - steps] for output in full]
    guards = {"ours": BatchGuards(torch.device("cpu"), False, None), "vllm": shipped_processor()}
    logits = {name: torch.zeros(batch, VOCABULARY) for name in guards}
    times: dict[str, list[float]] = {name: [] for name in guards}
    for name, processor in guards.items():
        enter(processor, {"ngram_size": size, "window_size": window}, histories)
        processor.apply(logits[name])
    for step in range(length - steps, length):
        for history, output in zip(histories, full, strict=True):
            history.append(output[step])
        first_in_turn = sorted(guards, reverse=bool(step % 2))  # who comes second finds warm caches
        for name in first_in_turn:
            times[name].append(step_seconds(guards[name], logits[name]))
    if not torch.equal(logits["ours"], logits["vllm"]):
        raise SystemExit("the two processors ban different tokens")
    return {name: statistics.median(seconds) * 1e3 for name, seconds in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    python, machine = platform.python_version(), platform.machine()
    print(f"{machine}, Python {python}, torch {torch.__version__}, vLLM {vllm.__version__}")
    print(f"{'n, window':>12} {'history':>8} {'vLLM ms':>10} {'ours ms':>10} {'ratio':>8}")
    result: dict[str, Any] = {"batch": args.batch, "steps": args.steps}
    for name, (size, window, length) in SETTINGS.items():
        cost = measure(size, window, length, args.batch, args.steps)
        ratio = cost["ours"] / cost["vllm"]
        label = f"{size}, {window}"
        print(f"{label:>12} {length:>8} {cost['vllm']:>10.3f} {cost['ours']:>10.3f} {ratio:>8.4f}")
        result |= {f"ours_ms_{name}": cost["ours"], f"vllm_ms_{name}": cost["vllm"]}
        result[f"ratio_{name}"] = ratio
    print(json.dumps(result))


if __name__ == "__main__":
    main()
