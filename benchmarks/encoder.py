"""The vision encoder at full size, beside vLLM's own: time, memory, share of the matrix peak.

    python -m benchmarks.encoder [--pages 1 4] [--rounds 3]

A page is six tiles of 640 px and a global view of 1024 px, already decoded and cut; weights are
random, the same in both, and the embeddings are compared. Ours starts from uint8, vLLM's from the
normalised bf16 that its API server sends. Each runs in a process of its own, in turns. Memory is
the most that tensors made by one call hold at a time. Prints a table and, as the last line, one
JSON object.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.live_bytes import LiveBytes
from benchmarks.machine import headline, machine
from benchmarks.peer import SIDES, Side, answer_questions, peer_model
from vllm_dsocr.config import VisionSizes
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages, normalise
from vllm_dsocr.encoder.positions import keep_constants
from vllm_dsocr.plan.vision_cost import view_flops

ROWS, COLS = 3, 2
TILE, VIEW = 640, 1024
MATRIX = 4096  # side of the product whose rate is called the matrix peak
COLUMNS = ("pages", "peer s", "ours s", "ratio", "peer MiB", "ours MiB", "ratio")
ALIKE = 0.05  # relative rms between two bf16 runs of 36 blocks
Encoder = Callable[[list[PageViews]], list[Tensor]]


def pages(count: int) -> list[PageViews]:
    generator = torch.Generator().manual_seed(0)

    def pixels(number: int, side: int) -> Tensor:
        return torch.randint(0, 256, (number, 3, side, side), generator=generator).byte()

    views = ((pixels(1, VIEW)[0], pixels(ROWS * COLS, TILE)) for _ in range(count))
    return [PageViews(*pair, ROWS, COLS) for pair in views]


def normalised(page: PageViews) -> PageViews:
    """As vLLM's own API server sends it."""
    like = torch.zeros(1, dtype=torch.bfloat16, device=page.global_view.device)
    pair = normalise(page.global_view, like), normalise(page.tiles, like)
    return PageViews(*pair, page.rows, page.cols)


def tower_like_the_checkpoint() -> nn.Module:
    """Random weights of a size that keeps activations near 1."""
    torch.manual_seed(0)
    tower = nn.Module()
    build_vision_tower(tower, VisionSizes())
    for name, parameter in tower.named_parameters():
        if parameter.ndim > 1 and "pos" not in name:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        elif "pos" in name or "newline" in name or "seperator" in name:
            nn.init.normal_(parameter, std=0.02)
    return tower.to(torch.bfloat16).requires_grad_(False).eval()


def our_encoder(device: str | torch.device = "cpu", sides: Sequence[int] = ()) -> Encoder:
    """sides: of views for which the attention is chosen by measurement."""
    tower = tower_like_the_checkpoint().to(device)
    if sides:
        from vllm_dsocr.plugin.encoder.attention import choose, register_forms

        register_forms()
        choose(tower.sam_model.forms, VisionSizes().sam, sides, tower.image_newline)
        keep_constants(tower)
    return lambda views: embed_pages(tower, views)


def on_device(views: list[PageViews], device: torch.device) -> list[PageViews]:
    return [PageViews(v.global_view.to(device), v.tiles.to(device), v.rows, v.cols) for v in views]


def their_encoder(device: str | torch.device = "cpu") -> Encoder:
    """vLLM's towers and its method that puts them together, with our weights."""
    ours, model = tower_like_the_checkpoint().to(device), peer_model()
    theirs = model.__new__(model)  # without the decoder
    nn.Module.__init__(theirs)
    theirs.sam_model, theirs.vision_model = _their_towers(ours)
    theirs.projector = ours.projector.layers
    theirs.image_newline, theirs.view_seperator = ours.image_newline, ours.view_seperator

    def encode(views: list[PageViews]) -> list[Tensor]:
        return theirs._pixel_values_to_embedding(
            torch.stack([page.global_view for page in views]),
            torch.cat([page.tiles for page in views]),
            torch.tensor([[page.cols, page.rows] for page in views]),
        )

    return encode


def _their_towers(ours: nn.Module) -> tuple[nn.Module, nn.Module]:
    from transformers import CLIPVisionConfig
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.model_executor.models import deepencoder
    from vllm.utils.torch_utils import set_default_torch_dtype

    clip = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
    )
    with (
        set_current_vllm_config(VllmConfig()),
        set_default_torch_dtype(torch.bfloat16),
        tempfile.NamedTemporaryFile() as meeting,
    ):
        init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "gloo")
        initialize_model_parallel()
        towers = deepencoder.build_sam_vit_b(), deepencoder.DeepCLIPVisionTransformer(clip)
        for tower, own in zip(towers, (ours.sam_model, ours.vision_model), strict=True):
            tower.load_state_dict(own.state_dict(), strict=False)
            tower.to(ours.image_newline.device)
            tower.requires_grad_(False)
            for module in tower.modules():
                if method := getattr(module, "quant_method", None):
                    method.process_weights_after_loading(module)
    return towers


def answerer(side: str) -> Callable[..., dict[str, Any]]:
    """Answers {"pages_": N}: seconds of one call; with "save": FILE, MiB and the embeddings."""
    encode = our_encoder() if side == "ours" else their_encoder()
    given: dict[int, list[PageViews]] = {}

    @torch.no_grad()  # not inference mode, whose tensors LiveBytes does not see
    def answer(pages_: int, save: str | None = None) -> dict[str, Any]:
        views = given.get(pages_) or given.setdefault(pages_, prepared(pages_, side))
        if save:
            return first_call(views, save)
        start = time.perf_counter()
        encode(views)
        return {"seconds": time.perf_counter() - start}

    def first_call(views: list[PageViews], save: str) -> dict[str, Any]:
        with LiveBytes() as live:
            torch.save(encode(views), save)
        return {"mib": live.peak / 2**20}

    return answer


def prepared(count: int, side: str) -> list[PageViews]:
    """What reaches the engine on that side."""
    return pages(count) if side == "ours" else [normalised(page) for page in pages(count)]


def matrix_peak(rounds: int = 5) -> float:
    """FLOP/s of a bf16 product, the best of `rounds`."""
    a, b = torch.randn(2, MATRIX, MATRIX, dtype=torch.bfloat16)
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / min(seconds)


def compare(sides: list[Side], count: int) -> tuple[float, dict[str, float]]:
    """Relative rms between both embeddings of the first page, and each side's MiB; warms up."""
    with tempfile.TemporaryDirectory() as folder:
        files = {side.name: str(Path(folder, side.name)) for side in sides}
        memory = {side.name: side.ask(pages_=count, save=files[side.name])["mib"] for side in sides}
        first = {name: torch.load(file, weights_only=True)[0] for name, file in files.items()}
    ours, theirs = first["ours"].float(), first["peer"].float()
    return float((ours - theirs).norm() / theirs.norm()), memory


def measure(sides: list[Side], count: int, rounds: int) -> dict[str, float]:
    """Median seconds of each side, in turns."""
    seconds: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            seconds[side.name].append(side.ask(pages_=count)["seconds"])
    return {name: median(every) for name, every in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        answer_questions(answerer(args.side))
        return
    print(headline(), flush=True)
    result: dict[str, Any] = {**machine(), "peak_gflops": matrix_peak() / 1e9}
    flops = view_flops(VisionSizes(), VIEW) + ROWS * COLS * view_flops(VisionSizes(), TILE)
    with ExitStack() as stack:
        sides = [stack.enter_context(Side("benchmarks.encoder", name)) for name in SIDES]
        print("".join(f"{name:>10}" for name in COLUMNS))
        for count in args.pages:
            difference, memory = compare(sides, count)
            if not difference < ALIKE:
                raise SystemExit(f"the two encoders differ by {difference:.3f} relative rms")
            seconds = measure(sides, count, args.rounds)
            suffix = "" if count == 1 else f"_{count}"
            result |= figures(seconds, memory, suffix) | {f"difference{suffix}": difference}
    rate = flops / result["ours_seconds"] / 1e9
    result["flops_fraction"] = rate / result["peak_gflops"]
    print(f"{result['flops_fraction']:.2f} of the matrix peak, {result['peak_gflops']:.0f} GFLOP/s")
    print(json.dumps(result))


def figures(seconds: dict[str, float], memory: dict[str, float], suffix: str) -> dict[str, float]:
    """Ratios and absolutes under their JSON names; prints a row of the table."""
    time_ratio = seconds["ours"] / seconds["peer"]
    memory_ratio = memory["ours"] / memory["peer"]
    row = (seconds["peer"], seconds["ours"], time_ratio, memory["peer"], memory["ours"])
    cells = "".join(f"{value:>10.2f}" for value in (*row, memory_ratio))
    print(f"{suffix[1:] or 1:>10}{cells}", flush=True)
    return {
        **{f"{name}_seconds{suffix}": value for name, value in seconds.items()},
        **{f"{name}_mib{suffix}": value for name, value in memory.items()},
        f"time_ratio{suffix}": time_ratio,
        f"memory_ratio{suffix}": memory_ratio,
    }


if __name__ == "__main__":
    main()
