"""Character error rate of a checkpoint folder on held-out pages, through transformers.

    python -m examples.reader_training.evaluate examples/reader --pages 64

Prints the worst pages for people, if asked, and one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median

import torch

from vllm_dsocr.hf import DeepseekOCRForCausalLM
from vllm_dsocr.metrics import character_error_rate

from .pages import PAGE_SIDE, Page, held_out_pages
from .reading import count_errors, read_pages
from .tokenizer import write_json

AT_ONCE = 16  # pages per batch


def read_all(model: DeepseekOCRForCausalLM, pages: list[Page]) -> list[str]:
    """Texts of all pages, batch by batch."""
    starts = range(0, len(pages), AT_ONCE)
    return [text for start in starts for text in read_pages(model, pages[start : start + AT_ONCE])]


def print_worst(texts: list[str], pages: list[Page], count: int) -> None:
    """The pages read worst, truth above reading."""
    pairs = [(character_error_rate(t, p.text), t, p) for t, p in zip(texts, pages, strict=True)]
    for rate, text, page in sorted(pairs, key=lambda pair: -pair[0])[:count]:
        print(f"--- {rate:.1%}\n{page.text}\n- read as\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pages", type=int, default=64)
    parser.add_argument("--seed", type=int, default=1000, help="first held-out page")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--worst", type=int, default=0, help="pages to print in full")
    parser.add_argument("--save", type=Path, help="also write the JSON object here")
    args = parser.parse_args()
    dtype = getattr(torch, args.dtype)
    model = DeepseekOCRForCausalLM.from_pretrained(args.checkpoint, dtype=dtype).eval()
    pages = held_out_pages(args.pages, args.seed)
    start = time.perf_counter()
    texts = read_all(model, pages)
    seconds = time.perf_counter() - start
    wrong, printed = count_errors(texts, pages)
    rates = [character_error_rate(t, p.text) for t, p in zip(texts, pages, strict=True)]
    print_worst(texts, pages, args.worst)
    result = {
        "cer": round(wrong / printed, 5),
        "median_page_cer": round(median(rates), 5),
        "perfect_pages": sum(rate == 0 for rate in rates),
        "pages": len(pages),
        "characters": printed,
        "side": PAGE_SIDE,
        "dtype": args.dtype,
        "seconds": round(seconds, 1),
    }
    if args.save:
        write_json(args.save, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
