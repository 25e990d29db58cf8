"""Time to the first token of one page and of four sent at once, beside vLLM's own DeepSeek-OCR.

    python -m benchmarks.prefill [--together] [--rounds 3] [--pages 1 4] [--config FOLDER]

The published architecture with random weights in bf16, on an engine inside each side's process.
The clock runs from the encoded pages to the moment when every one of them has its first token, so
it holds decoding, preprocessing, vision encoder and prefill. Pages are A4, cut into the same six
tiles by both; nothing is cached, and the prompts have the same ids. The sides take turns, the
median counts. A side takes about 9 GB: `--together` keeps both in memory, without it each is
loaded anew in each round. Prints a table and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import headline, machine, resident
from benchmarks.peer import SIDES, Side, answer_questions, register
from benchmarks.preprocess import MODEL, text_page
from vllm_dsocr.config import IMAGE_TOKEN, VisionSizes
from vllm_dsocr.plan.sizes import DecoderSizes

if TYPE_CHECKING:
    from vllm import LLM

TEXT = "\nFree OCR."
ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
OPTIONS: dict[str, Any] = {
    "load_format": "dummy",
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_model_len": 4096,
    "max_num_batched_tokens": 8192,  # four pages are one step
    "max_num_seqs": 8,
    "kv_cache_memory_bytes": 512 << 20,
    "limit_mm_per_prompt": {"image": 1},
    "skip_mm_profiling": True,
    "mm_processor_cache_gb": 0,
    "enable_prefix_caching": False,
}
Seconds = dict[str, dict[int, list[float]]]  # side -> pages at once -> one per round


def write_published(folder: Path) -> None:
    """A model folder of the published sizes, without weights and with a small tokenizer."""
    shutil.copytree(MODEL, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((MODEL / "config.json").read_text())
    decoder, vision = asdict(DecoderSizes()), VisionSizes()
    config |= decoder
    config["language_config"] |= decoder
    towers = {"sam_vit_b": asdict(vision.sam), "clip-l-14-224": asdict(vision.clip)}
    config["vision_config"]["width"] = towers
    config["projector_config"] |= {
        "input_dim": vision.projector_input,
        "n_embed": vision.projector_output,
    }
    (folder / "config.json").write_text(json.dumps(config))


def first_tokens(llm: LLM, pages: Sequence[bytes]) -> dict[str, float]:
    """Seconds until each page has its first token, and how many prompt tokens they have in all."""
    from vllm import SamplingParams
    from vllm.multimodal.media import ImageMediaIO

    tokenizer = llm.get_tokenizer()
    text = tokenizer.encode(IMAGE_TOKEN + TEXT, add_special_tokens=False)
    ids = [tokenizer.bos_token_id, *text]
    one_token = SamplingParams(temperature=0, max_tokens=1, detokenize=False)
    start = time.perf_counter()
    images = [ImageMediaIO().load_bytes(page) for page in pages]
    prompts = [{"prompt_token_ids": ids, "multi_modal_data": {"image": [i]}} for i in images]
    outputs = llm.generate(prompts, one_token, use_tqdm=False)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "tokens": sum(len(o.prompt_token_ids) for o in outputs)}


def answers(side: str, folder: str) -> Callable[..., dict[str, float]]:
    """What this process answers: `pages` measured, with its peak memory so far."""
    register(side)
    from vllm import LLM

    llm = LLM(folder, **OPTIONS)

    def answer(pages: int) -> dict[str, float]:
        found = first_tokens(llm, [text_page(seed) for seed in range(pages)])
        return {**found, "peak_gib": resident("VmHWM") / 2**30}

    return answer


@contextmanager
def warm(side: str, folder: str) -> Iterator[Side]:
    """A side that has read one page already."""
    with Side("benchmarks.prefill", side, "--config", folder, **ENVIRONMENT) as worker:
        worker.ask(pages=1)
        yield worker


def compare(
    folder: str, sizes: Sequence[int], rounds: int, together: bool
) -> tuple[Seconds, dict[str, float]]:
    """Seconds of every round, and each side's peak memory in GiB."""
    found: Seconds = {name: {size: [] for size in sizes} for name in SIDES}
    tokens: dict[int, set[float]] = {size: set() for size in sizes}
    peaks: dict[str, float] = {}
    with ExitStack() as kept:
        start = functools.cache(lambda name: kept.enter_context(warm(name, folder)))
        for number in range(rounds):
            for name in sorted(SIDES, reverse=bool(number % 2)):
                with ExitStack() as fresh:
                    side = start(name) if together else fresh.enter_context(warm(name, folder))
                    for size in sizes:
                        answer = side.ask(pages=size)
                        found[name][size].append(answer["seconds"])
                        tokens[size].add(answer["tokens"])
                        peaks[name] = max(peaks.get(name, 0), answer["peak_gib"])
    if any(len(counts) > 1 for counts in tokens.values()):
        raise SystemExit(f"the prompts differ in length: {tokens}")
    return found, peaks


def report(found: Seconds, peaks: dict[str, float]) -> dict[str, float]:
    """The table, printed, and its figures."""
    print(f"{'pages':>6} {'peer s':>8} {'ours s':>8} {'ratio':>7}")
    result = {f"{name}_peak_gib": peak for name, peak in peaks.items()}
    for size in found["ours"]:
        ours, peer = (statistics.median(found[name][size]) for name in SIDES)
        print(f"{size:>6} {peer:>8.2f} {ours:>8.2f} {ours / peer:>7.3f}")
        result |= {f"ours_s_{size}": ours, f"peer_s_{size}": peer, f"ratio_{size}": ours / peer}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", help="a model folder; without it the published sizes")
    parser.add_argument("--pages", type=int, nargs="+", default=[1, 4], help="sent at once")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", action="store_true", help="both sides in memory at once")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        answer_questions(answers(args.side, args.config))
        return
    print(headline())
    with tempfile.TemporaryDirectory() as parent:
        folder = args.config or str(Path(parent, "published"))
        if args.config is None:
            write_published(Path(folder))
        found = compare(folder, args.pages, args.rounds, args.together)
    print(json.dumps({"rounds": args.rounds, **report(*found), **machine()}))


if __name__ == "__main__":
    main()
