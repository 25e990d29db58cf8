"""`dsocr plan`: what the model takes per page in every mode, and what a GPU makes of that."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vllm_dsocr.cli.engines import positive
from vllm_dsocr.config import MODES
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plan import decoder_cost
from vllm_dsocr.plan.bounds import GIB, GPUS, Gpu, bound
from vllm_dsocr.plan.page_cost import model_bytes, page_cost
from vllm_dsocr.plan.sizes import ModelSizes
from vllm_dsocr.plan.vision_cost import vision_parameters

MIB = 2**20


def main(argv: Sequence[str]) -> int:
    """Prints a table, or one JSON object with --json; 2 for a configuration that cannot be."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        sizes = ModelSizes.from_file(args.model) if args.model else ModelSizes()
        gpu = _gpu(args)
    except (OSError, ValueError) as error:
        print(f"dsocr plan: {error}", file=sys.stderr)
        return 2
    rows = [_row(sizes, mode, gpu, args) for mode in args.mode or MODES]
    result = {"parameters": _parameters(sizes), "modes": rows}
    print(json.dumps(result) if args.json else "\n".join(_table(result)))
    return 0


def _gpu(args: argparse.Namespace) -> Gpu | None:
    own = (args.flops, args.bandwidth, args.memory)
    if any(own) and not all(own):
        raise ValueError("a GPU of your own needs --flops, --bandwidth and --memory")
    if all(own):
        return Gpu(args.flops * 1e12, args.bandwidth * 1e9, args.memory * GIB)
    return GPUS[args.gpu] if args.gpu else None


def _parameters(sizes: ModelSizes) -> dict[str, int]:
    return {
        "vision": vision_parameters(sizes.vision),
        "decoder": decoder_cost.parameters(sizes.decoder),
        "decoder_active": decoder_cost.active_parameters(sizes.decoder),
        "bytes_bf16": model_bytes(sizes),
    }


def _row(sizes: ModelSizes, mode: str, gpu: Gpu | None, args: argparse.Namespace) -> dict[str, Any]:
    plan = plan_tiles(*args.page, MODES[mode])
    cost = page_cost(sizes, plan, args.text_tokens, pages=args.pages)
    row: dict[str, Any] = {"mode": mode, "tiles": plan.num_tiles, **asdict(cost)}
    if gpu is not None:
        limit = bound(sizes, cost, gpu, args.max_num_seqs)
        row |= asdict(limit)
        if args.price is not None:
            row["cost_per_million"] = limit.cost_per_million(args.price)
    return row


def _table(result: dict[str, Any]) -> Iterator[str]:
    count = result["parameters"]
    yield (
        f"{count['vision'] / 1e6:.0f} M parameters in the vision part, "
        f"{count['decoder'] / 1e6:.0f} M in the decoder, of which a token meets "
        f"{count['decoder_active'] / 1e6:.0f} M; {count['bytes_bf16'] / GIB:.2f} GiB in bf16"
    )
    yield ""
    columns = [name for name in _COLUMNS if name in result["modes"][0]]
    yield " ".join(f"{_COLUMNS[name][0]:>12}" for name in columns)
    for row in result["modes"]:
        yield " ".join(f"{_cell(name, row[name]):>12}" for name in columns)


def _cell(name: str, value: Any) -> str:
    _, unit, form = _COLUMNS[name]
    return f"{value / unit:{form}}" if unit else str(value)


# key of a row: (head of the column, what its value is divided by, if by anything, format)
_COLUMNS: dict[str, tuple[str, float, str]] = {
    "mode": ("mode", 0, ""),
    "tiles": ("tiles", 0, ""),
    "image_tokens": ("image tokens", 0, ""),
    "vision": ("vision TFLOP", 1e12, ".3f"),
    "prefill": ("prefill", 1e12, ".3f"),
    "decode": ("decode", 1e12, ".3f"),
    "cache_bytes": ("KV MiB", MIB, ".1f"),
    "vision_bytes": ("vision MiB", MIB, ".1f"),
    "activation_bytes": ("active MiB", MIB, ".1f"),
    "concurrency": ("concurrency", 0, ""),
    "pages_per_second": ("pages/s <=", 1, ".1f"),
    "cost_per_million": ("cost/M >=", 1, ".2f"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dsocr plan",
        description="FLOPs, memory and, for a GPU, the bound no server exceeds; from shapes alone.",
    )
    parser.add_argument("--model", type=Path, help="config.json or its folder (the published one)")
    parser.add_argument("--mode", choices=MODES, action="append", help="default: all")
    parser.add_argument("--page", type=_size, default=(1654, 2339), help="WxH px (1654x2339, A4)")
    parser.add_argument("--text-tokens", type=positive, default=1000, help="of a page (1000)")
    parser.add_argument("--pages", type=positive, default=1, help="encoded in one step (1)")
    parser.add_argument("--json", action="store_true", help="one JSON object, exact numbers")
    group = parser.add_argument_group("GPU")
    group.add_argument("--gpu", choices=GPUS)
    group.add_argument("--flops", type=float, help="TFLOP/s, bf16, dense")
    group.add_argument("--bandwidth", type=float, help="GB/s")
    group.add_argument("--memory", type=float, help="GiB")
    group.add_argument("--max-num-seqs", type=positive, default=256, help="of the server (256)")
    group.add_argument("--price", type=float, help="per hour of the GPU")
    return parser


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (positive(part) for part in text.lower().split("x"))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT") from error
    return width, height
