"""`dsocr plan`: what the model takes per page in every mode, and what a GPU makes of that."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from vllm_dsocr.cli import plan_simulation
from vllm_dsocr.cli.lazy import APP, examples
from vllm_dsocr.config import MODES
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.plan import decoder_cost
from vllm_dsocr.plan.bounds import Setup, bound, decoder_bytes
from vllm_dsocr.plan.gpus import GIB, GPUS, Gpu
from vllm_dsocr.plan.page_cost import model_bytes, page_cost
from vllm_dsocr.plan.simulated_costs import costs_from_file, gpu_costs
from vllm_dsocr.plan.simulation import Costs, Fleet
from vllm_dsocr.plan.sizes import ModelSizes
from vllm_dsocr.plan.train_cost import TrainSetup, page_train_cost
from vllm_dsocr.plan.vision_cost import vision_parameters

MIB = 2**20
MAX_NUM_SEQS = 256
FRONT_MS, DRAW_MS = 61.0, 115.0  # A4, letters, 144 dpi: benchmarks.stages, docs/scale.md
app = typer.Typer(**APP)
GPU: dict[str, Any] = {"rich_help_panel": "GPU"}
SIMULATE: dict[str, Any] = {"rich_help_panel": "Simulation"}
TRAIN: dict[str, Any] = {"rich_help_panel": "Training"}


@dataclass(frozen=True, slots=True)
class Size:
    """Of a page, px."""

    width: int
    height: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@dataclass(frozen=True, slots=True)
class Work:
    """A page, the tokens of its text, and how many such are encoded in one step."""

    page: Size
    text_tokens: int
    pages: int


@dataclass(frozen=True, slots=True)
class Host:
    """efficiency: share of the GPU's rated speeds.  front, draw: seconds of a page on a core."""

    efficiency: float
    front: float
    draw: float


def _size(text: str | Size) -> Size:
    if isinstance(text, Size):
        return text
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise typer.BadParameter(f"{text!r} is not WIDTHxHEIGHT")
    return Size(int(width), int(height))


def _mode(text: str) -> str:
    if text not in MODES:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(MODES)}")
    return text


def _gpu_name(text: str) -> str:
    names = {name.lower(): name for name in GPUS}
    if text.lower() not in names:
        raise typer.BadParameter(f"{text!r} is not one of {', '.join(GPUS)}")
    return names[text.lower()]


@app.command(
    epilog=examples(
        "dsocr plan --gpu H100 --price 2.5",
        "dsocr plan --gpu L40S --fp8 --max-num-seqs 512 --mode base",
        "dsocr plan --gpu H100 --tensor-parallel-size 2 --text-tokens 2000",
        "dsocr plan --simulate --gpu H100 --replicas 8 --api-processes 4 --mode gundam",
        "dsocr plan --simulate --costs costs.json --rate 2 --replicas 2",
        "dsocr plan --train --mode base --rows 4 --checkpointing --bf16",
    )
)
def plan(
    model: Annotated[
        Path | None, typer.Option(help="config.json or its folder; the published one without")
    ] = None,
    mode: Annotated[
        list[str] | None, typer.Option(parser=_mode, metavar="MODE", help="may be repeated; all")
    ] = None,
    page: Annotated[
        Size, typer.Option(parser=_size, metavar="WxH", help="px; without it A4 at 200 dpi")
    ] = "1654x2339",
    text_tokens: Annotated[int, typer.Option(min=1, help="of a page")] = 1000,
    pages: Annotated[int, typer.Option(min=1, help="encoded in one step")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object, exact numbers")] = False,
    gpu: Annotated[
        str | None,
        typer.Option(parser=_gpu_name, metavar="NAME", help=f"one of {', '.join(GPUS)}", **GPU),
    ] = None,
    flops: Annotated[float | None, typer.Option(help="TFLOP/s, bf16, dense", **GPU)] = None,
    fp8_flops: Annotated[float | None, typer.Option(help="TFLOP/s, FP8, dense", **GPU)] = None,
    bandwidth: Annotated[float | None, typer.Option(help="GB/s", **GPU)] = None,
    memory: Annotated[float | None, typer.Option(help="GiB", **GPU)] = None,
    max_num_seqs: Annotated[
        int | None, typer.Option(min=1, help="of the server; vLLM's own for the GPU", **GPU)
    ] = None,
    tensor_parallel_size: Annotated[int, typer.Option(min=1, help="GPUs", **GPU)] = 1,
    fp8: Annotated[bool, typer.Option("--fp8", help="--quantization fp8", **GPU)] = False,
    price: Annotated[float | None, typer.Option(help="per hour of one GPU", **GPU)] = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="pages through a fleet, event by event", **SIMULATE)
    ] = False,
    costs: Annotated[
        Path | None,
        typer.Option(help="measured seconds, of benchmarks.simulation; else --gpu", **SIMULATE),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="servers", **SIMULATE)] = 1,
    api_processes: Annotated[
        int, typer.Option(min=1, help="--api-server-count of each", **SIMULATE)
    ] = 1,
    draw_processes: Annotated[
        int, typer.Option(min=1, help="of all gateways together", **SIMULATE)
    ] = 8,
    pages_per_step: Annotated[
        int, typer.Option(min=1, help="that an engine encodes in one step", **SIMULATE)
    ] = 8,
    rate: Annotated[
        float | None, typer.Option(help="pages a second; as many as it takes", **SIMULATE)
    ] = None,
    clients: Annotated[
        int | None, typer.Option(min=1, help="that wait for each answer, instead", **SIMULATE)
    ] = None,
    arrivals: Annotated[int | None, typer.Option(min=1, help="pages", **SIMULATE)] = None,
    efficiency: Annotated[
        float, typer.Option(min=0.01, max=1, help="share of rated speeds", **SIMULATE)
    ] = 0.4,
    front_ms: Annotated[
        float, typer.Option(min=0, help="of an API process, a page", **SIMULATE)
    ] = FRONT_MS,
    draw_ms: Annotated[
        float, typer.Option(min=0, help="of a drawing process, a page", **SIMULATE)
    ] = DRAW_MS,
    train: Annotated[
        bool, typer.Option("--train", help="a step of training instead, encoder frozen", **TRAIN)
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="pages of a step", **TRAIN)] = 1,
    checkpointing: Annotated[
        bool, typer.Option("--checkpointing", help="gradient_checkpointing", **TRAIN)
    ] = False,
    bf16: Annotated[
        bool, typer.Option("--bf16", help="weights and all that follows; fp32 without", **TRAIN)
    ] = False,
    full_logits: Annotated[
        bool, typer.Option("--full-logits", help="lean_loss: false", **TRAIN)
    ] = False,
) -> int:
    """FLOPs, memory and, for a GPU, two bounds in pages per second; from shapes alone.

    `pages/s <=` has arithmetic and memory busy all the time: no server that writes a token a step
    exceeds it. `in turn` has the encoder and the prefill first and the steps of the decoder after.
    """
    try:
        sizes = ModelSizes.from_file(model) if model else ModelSizes()
        card = _gpu(gpu, flops, bandwidth, memory, fp8_flops)
        setup = Setup(max_num_seqs, tensor_parallel_size, fp8)
        work = Work(page, text_tokens, pages)
        if simulate:
            host = Host(efficiency, front_ms / 1e3, draw_ms / 1e3)
            seqs = max_num_seqs or (card.max_num_seqs if card else MAX_NUM_SEQS)
            fleet = Fleet(replicas, api_processes, seqs, pages_per_step, draw_processes)
            load = plan_simulation.Load(rate, clients, arrivals, text_tokens)
            whole = None if price is None else price * tensor_parallel_size * replicas
            fleets = {
                name: plan_simulation.simulated(
                    _costs(costs, sizes, name, work, card, setup, host, seqs), fleet, load, whole
                )
                for name in (["measured"] if costs else mode or MODES)
            }
            lines = plan_simulation.table(fleets, fleet)
            print(json.dumps(fleets) if as_json else "\n".join(lines))
            return 0
        step = TrainSetup(2 if bf16 else 4, rows, checkpointing, not full_logits)
        found = [
            _train_row(sizes, name, work, step)
            if train
            else _row(sizes, name, work, card, setup, price)
            for name in mode or MODES
        ]
    except (OSError, ValueError) as error:
        print(f"dsocr plan: {error}", file=sys.stderr)
        return 2
    result = {"parameters": _parameters(sizes), "modes": found}
    if card is not None and not train:
        result["gpu"] = asdict(card)
    print(json.dumps(result) if as_json else "\n".join(_table(result)))
    return 0


def _costs(
    file: Path | None,
    sizes: ModelSizes,
    mode: str,
    work: Work,
    gpu: Gpu | None,
    setup: Setup,
    host: Host,
    max_num_seqs: int,
) -> Costs:
    if file is not None:
        return costs_from_file(file)
    if gpu is None:
        raise ValueError("--simulate needs --gpu, or --costs with what was measured")
    tiles = plan_tiles(work.page.width, work.page.height, MODES[mode])
    cost = page_cost(sizes, tiles, work.text_tokens)
    speeds = (host.efficiency, host.front, host.draw, max_num_seqs)
    return gpu_costs(sizes, cost, gpu, setup, *speeds)


def _gpu(
    name: str | None,
    flops: float | None,
    bandwidth: float | None,
    memory: float | None,
    fp8_flops: float | None,
) -> Gpu | None:
    own = (flops, bandwidth, memory)
    if any(own) and not all(own):
        raise ValueError("a GPU of your own needs --flops, --bandwidth and --memory")
    if flops and bandwidth and memory:
        return Gpu(flops * 1e12, bandwidth * 1e9, memory * GIB, (fp8_flops or 0) * 1e12)
    return GPUS[name] if name else None


def _parameters(sizes: ModelSizes) -> dict[str, int]:
    return {
        "vision": vision_parameters(sizes.vision),
        "decoder": decoder_cost.parameters(sizes.decoder),
        "decoder_active": decoder_cost.active_parameters(sizes.decoder),
        "bytes_bf16": model_bytes(sizes),
        "bytes_fp8": 2 * vision_parameters(sizes.vision) + decoder_bytes(sizes, fp8=True),
    }


def _row(
    sizes: ModelSizes, mode: str, work: Work, gpu: Gpu | None, setup: Setup, price: float | None
) -> dict[str, Any]:
    tiles = plan_tiles(work.page.width, work.page.height, MODES[mode])
    cost = page_cost(sizes, tiles, work.text_tokens, pages=work.pages)
    row: dict[str, Any] = {"mode": mode, "tiles": tiles.num_tiles, **asdict(cost)}
    if gpu is not None:
        limit = bound(sizes, cost, gpu, setup)
        row |= asdict(limit)
        if price is not None:
            row["cost_per_million"] = limit.cost_per_million(price * setup.tensor_parallel_size)
    return row


def _train_row(sizes: ModelSizes, mode: str, work: Work, setup: TrainSetup) -> dict[str, Any]:
    tiles = plan_tiles(work.page.width, work.page.height, MODES[mode])
    cost = page_train_cost(sizes, tiles, work.text_tokens, setup)
    return {"mode": mode, "tiles": tiles.num_tiles, **asdict(cost), "peak": cost.peak}


def _table(result: dict[str, Any]) -> Iterator[str]:
    count = result["parameters"]
    yield (
        f"{count['vision'] / 1e6:.0f} M parameters in the vision part, "
        f"{count['decoder'] / 1e6:.0f} M in the decoder, of which a token meets "
        f"{count['decoder_active'] / 1e6:.0f} M; {count['bytes_bf16'] / GIB:.2f} GiB in bf16, "
        f"{count['bytes_fp8'] / GIB:.2f} GiB in FP8"
    )
    if "gpu" in result:
        yield f"figures of the GPU: {result['gpu']['source']}"
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
    "tokens": ("tokens", 0, ""),
    "flops": ("step TFLOP", 1e12, ".2f"),
    "parameters": ("weights GiB", GIB, ".2f"),
    "gradients": ("grads GiB", GIB, ".2f"),
    "optimiser": ("AdamW GiB", GIB, ".2f"),
    "activations": ("kept GiB", GIB, ".2f"),
    "layer": ("layer GiB", GIB, ".2f"),
    "logits": ("logits GiB", GIB, ".2f"),
    "peak": ("peak GiB", GIB, ".2f"),
    "vision": ("vision TFLOP", 1e12, ".3f"),
    "vision_executed": ("executed", 1e12, ".3f"),
    "prefill": ("prefill", 1e12, ".3f"),
    "decode": ("decode", 1e12, ".3f"),
    "cache_bytes": ("KV MiB", MIB, ".1f"),
    "vision_bytes": ("vision MiB", MIB, ".1f"),
    "activation_bytes": ("active MiB", MIB, ".1f"),
    "concurrency": ("concurrency", 0, ""),
    "pages_per_second": ("pages/s <=", 1, ".1f"),
    "pages_per_second_in_turn": ("in turn", 1, ".1f"),
    "cost_per_million": ("cost/M >=", 1, ".2f"),
}
