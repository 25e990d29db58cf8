"""A checkpoint folder on held-out pages, plain ones and ones with layout -> error rates.

    python -m examples.reader_training.evaluate examples/reader --pages 64 --layouts 64
    python -m examples.reader_training.evaluate examples/reader --server http://127.0.0.1:8000/v1

Reads through transformers, or through a running server. Prints the worst pages for people, if
asked, and one JSON object as the last line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median

import torch
from PIL import Image

from vllm_dsocr.hf import DeepseekOCRForCausalLM
from vllm_dsocr.metrics import character_error_rate

from .layout.answers import (
    Answer,
    figure_answer,
    free_answer,
    locate_answer,
    markdown_answer,
    ocr_answer,
)
from .layout.page import held_out_charts, held_out_layouts
from .pages import PAGE_SIDE, held_out_pages
from .scores.boxes import overlaps
from .scores.grammar import problem
from .scores.reading import MAX_MARKUP_TOKENS, count_errors, read_images
from .scores.scoring import layout_summary, score_layout
from .tokenizer import write_json

AT_ONCE = 16  # pages per batch
TASK_PAGES = 16  # pages of every further task

Reader = Callable[[list[Image.Image], str], list[str]]  # pages and a prompt -> answers


def hf_reader(folder: Path, dtype: str) -> Reader:
    """Reads in this process, batch by batch."""
    loaded = DeepseekOCRForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()

    def read(images: list[Image.Image], prompt: str) -> list[str]:
        starts = range(0, len(images), AT_ONCE)
        batches = [images[start : start + AT_ONCE] for start in starts]
        return [t for b in batches for t in read_images(loaded, b, prompt, MAX_MARKUP_TOKENS)]

    return read


def served_reader(base_url: str) -> Reader:
    """Reads through a server that speaks the OpenAI API, such as `vllm serve`."""
    from .scores.served import read_served

    return lambda images, prompt: read_served(base_url, images, prompt, MAX_MARKUP_TOKENS)


def print_worst(texts: list[str], truths: list[str], count: int) -> None:
    """The pages read worst, truth above reading."""
    pairs = [
        (character_error_rate(t, true), t, true) for t, true in zip(texts, truths, strict=True)
    ]
    for rate, text, truth in sorted(pairs, key=lambda pair: -pair[0])[:count]:
        print(f"--- {rate:.1%}\n{truth}\n- read as\n{text}")


def plain_figures(read: Reader, count: int, seed: int, worst: int) -> dict[str, float | int]:
    """Pages of lines, read with the prompt `Free OCR.`"""
    pages = held_out_pages(count, seed)
    texts = read([page.image for page in pages], "<image>\nFree OCR.")
    truths = [page.text for page in pages]
    wrong, printed = count_errors(texts, truths)
    rates = [character_error_rate(t, true) for t, true in zip(texts, truths, strict=True)]
    print_worst(texts, truths, worst)
    return {
        "cer": round(wrong / printed, 5),
        "median_page_cer": round(median(rates), 5),
        "perfect_pages": sum(rate == 0 for rate in rates),
        "pages": len(pages),
        "characters": printed,
    }


def layout_figures(read: Reader, count: int, seed: int, worst: int) -> dict[str, float | int]:
    """Pages with layout, turned into Markdown."""
    pages = held_out_layouts(count, seed)
    answers = [markdown_answer(page) for page in pages]
    texts = read([page.image for page in pages], answers[0].prompt)
    truths = [answer.text for answer in answers]
    print_worst(texts, truths, worst)
    scores = [score_layout(t, true) for t, true in zip(texts, truths, strict=True)]
    return {**layout_summary(scores), "pages": len(pages)}


def task_figures(read: Reader, seed: int) -> dict[str, dict[str, float]]:
    """The other tasks on a few pages each: errors, boxes where there are any, valid form."""
    pages = held_out_layouts(TASK_PAGES, seed)
    asked: dict[str, list[tuple[Image.Image, Answer | None]]] = {
        "ocr": [(page.image, ocr_answer(page)) for page in pages],
        "free": [(page.image, free_answer(page)) for page in pages],
        "locate": [(p.image, locate_answer(p, Random(i))) for i, p in enumerate(pages)],
        "figure": [(p.image, figure_answer(p)) for p in held_out_charts(TASK_PAGES, seed)],
    }
    return {task: _task(read, task, pairs) for task, pairs in asked.items()}


def _task(
    read: Reader, task: str, asked: list[tuple[Image.Image, Answer | None]]
) -> dict[str, float]:
    pairs = [(image, answer) for image, answer in asked if answer and answer.marks]
    prompts = {answer.prompt for _, answer in pairs}
    texts, truths = [], []
    for prompt in sorted(prompts):
        same = [(image, answer) for image, answer in pairs if answer.prompt == prompt]
        texts += read([image for image, _ in same], prompt)
        truths += [answer.text for _, answer in same]
    wrong, printed = count_errors(texts, truths)
    boxes = [v for t, true in zip(texts, truths, strict=True) for v in overlaps(t, true)]
    valid = sum(problem(task, text) is None for text in texts)
    figures = {"cer": wrong / printed, "valid": valid / len(texts)}
    if boxes:
        figures["iou"] = sum(boxes) / len(boxes)
    return {name: round(value, 4) for name, value in figures.items()}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--pages", type=int, default=64, help="pages of lines")
    parser.add_argument("--layouts", type=int, default=0, help="pages with layout")
    parser.add_argument("--tasks", action="store_true", help="also the tasks beside markdown")
    parser.add_argument("--seed", type=int, default=1000, help="first held-out page")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--server", help="base address (.../v1) of a server to read through")
    parser.add_argument("--worst", type=int, default=0, help="pages of a kind to print in full")
    parser.add_argument("--save", type=Path, help="also write the JSON object here")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    read = served_reader(args.server) if args.server else hf_reader(args.checkpoint, args.dtype)
    start = time.perf_counter()
    result: dict[str, object] = {}
    if args.pages:
        result |= plain_figures(read, args.pages, args.seed, args.worst)
    if args.layouts:
        result["layout"] = layout_figures(read, args.layouts, args.seed, args.worst)
    if args.tasks:
        result["tasks"] = task_figures(read, args.seed)
    result |= {"side": PAGE_SIDE, "dtype": args.dtype}
    result["through"] = "server" if args.server else "transformers"
    result["seconds"] = round(time.perf_counter() - start, 1)
    if args.save:
        write_json(args.save, result)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
