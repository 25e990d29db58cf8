"""What a page costs a GPU in the vision encoder, counted without one: ours beside vLLM's own.

    python -m benchmarks.encoder_static [--pages 8]

Both encoders run at full size in bf16 on the meta device, as they would on CUDA: ours with its
fused attention and all pages of a step together, vLLM's with its Triton kernel for global
attention, torch's for windows and its fused activations, page by page. Attention is one kernel on
both sides, ours two with the scores of positions. Then the time that each GPU's data sheet allows
for the FLOPs, for the bytes, and for launches of 5 us each: the largest bounds the time without
CUDA graphs, the larger of the first two with them. Prints a table and, as the last line, one JSON
object. Needs vLLM.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.operations import Operations, activation, attention, attention_by_head
from benchmarks.peer import peer_model
from vllm_dsocr.config import VisionSizes
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.encoder.attention import FORMS, PLAIN, Form, Forms
from vllm_dsocr.encoder.positions import keep_constants
from vllm_dsocr.plan.gpus import GPUS

ROWS, COLS, TILE, VIEW = 3, 2, 640, 1024
SHOWN = ("H100", "A100-80", "L4")
LAUNCH_SECONDS = 5e-6  # of the host, for one kernel in eager mode
META = torch.device("meta")
FORM = "fused-64"
Encode = Callable[[list[PageViews]], Any]


def pages(count: int, dtype: torch.dtype) -> list[PageViews]:
    def views(number: int, side: int) -> Tensor:
        return torch.empty(number, 3, side, side, dtype=dtype, device=META)

    return [PageViews(views(1, VIEW)[0], views(ROWS * COLS, TILE), ROWS, COLS)] * count


def counted(encode: Encode, given: list[PageViews]) -> Operations:
    """The second call, which makes no constants any more."""
    with torch.no_grad():  # not inference mode, in which compound operators stay whole
        encode(given)
        with Operations() as operations:
            encode(given)
    return operations


def our_encoder() -> Encode:
    """With the form that serves where Triton runs; the choice knows no meta device."""
    FORMS[FORM] = Form(FORMS[FORM].call)
    PLAIN["sdpa"] = lambda q, k, v, scale: attention(q, k, v, [])
    tower = nn.Module()
    with META:
        build_vision_tower(tower, VisionSizes(), Forms(FORM))
    tower.to(torch.bfloat16).requires_grad_(False)
    keep_constants(tower)
    return lambda given: embed_pages(tower, given)


def their_encoder() -> Encode:
    """vLLM's towers and its method that puts them together, as on CUDA."""
    from transformers import CLIPVisionConfig
    from vllm.model_executor.models import deepencoder

    clip = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24,
        num_attention_heads=16, image_size=224, patch_size=14,
    )  # fmt: skip
    model = peer_model()
    theirs = model.__new__(model)  # without the decoder
    nn.Module.__init__(theirs)
    with building(), META:
        theirs.sam_model = deepencoder.build_sam_vit_b()
        theirs.vision_model = deepencoder.DeepCLIPVisionTransformer(clip)
        theirs.projector = nn.Linear(2048, 1280)
        ends = torch.zeros(2, 1280)
        theirs.image_newline, theirs.view_seperator = (nn.Parameter(end) for end in ends)
    theirs.to(torch.bfloat16).requires_grad_(False)
    as_on_cuda(theirs)

    def encode(given: list[PageViews]) -> Any:
        return theirs._pixel_values_to_embedding(
            torch.stack([page.global_view for page in given]),
            torch.cat([page.tiles for page in given]),
            torch.tensor([[page.cols, page.rows] for page in given]),
        )

    return encode


@contextmanager
def building() -> Iterator[None]:
    """What vLLM's layers ask for while they are made."""
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel

    with set_current_vllm_config(VllmConfig()), tempfile.NamedTemporaryFile() as meeting:
        init_distributed_environment(1, 0, f"file://{meeting.name}", 0, "gloo")
        initialize_model_parallel()
        yield


def as_on_cuda(theirs: nn.Module) -> None:
    """Kernels that exist there only are stand-ins; nothing else of vLLM's changes."""
    from vllm.model_executor.layers.activation import QuickGELU
    from vllm.model_executor.layers.attention import MMEncoderAttention
    from vllm.model_executor.models import deepencoder

    deepencoder.current_platform = SimpleNamespace(is_cuda_alike=lambda: True)
    deepencoder.deepencoder_rel_pos_attention = lambda q, k, v, rel_h, rel_w, width, scale: (
        attention_by_head(q, k, v, [rel_h, rel_w])
    )
    # Windows: the bias is a mask; `F` is torch's own module, so only theirs is exchanged.
    masked = SimpleNamespace(
        **{name: getattr(F, name) for name in ("interpolate", "pad")},
        scaled_dot_product_attention=lambda q, k, v, attn_mask: attention(q, k, v, [attn_mask]),
    )
    deepencoder.F = masked
    QuickGELU.forward = lambda self, x: activation(x)
    MMEncoderAttention.forward = _flash
    for module in theirs.modules():
        if isinstance(module, MMEncoderAttention | QuickGELU):
            module.__dict__.pop("_forward_method", None)
        if method := getattr(module, "quant_method", None):
            method.apply = lambda layer, x, bias=None: F.linear(x, layer.weight, bias)
    item = Tensor.item
    Tensor.item = lambda self: 1 if self.is_meta else item(self)  # the check for empty tiles


def _flash(self: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    heads = (t.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (query, key, value))
    return attention(*heads, []).transpose(1, 2).flatten(2)


def bounds(operations: Operations, count: int, name: str) -> dict[str, float]:
    """Milliseconds a page on that GPU: products, memory, launches."""
    gpu = GPUS[name]
    return {
        "flops": operations.flops / count / gpu.flops * 1e3,
        "bytes": operations.bytes / count / gpu.bandwidth * 1e3,
        "launches": operations.launches / count * LAUNCH_SECONDS * 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=8, help="pages a step")
    parser.add_argument("--names", action="store_true", help="launches by operator, too")
    count = (args := parser.parse_args()).pages
    peer = counted(their_encoder(), pages(count, torch.bfloat16))
    ours = counted(our_encoder(), pages(count, torch.uint8))
    sides = {"peer": peer, "ours": ours}
    result: dict[str, Any] = {"pages": count, "torch": torch.__version__}
    result["ours_flops_of_whole_squares"] = (ours.flops + ours.rounding) / count
    print(f"{'a page of ' + str(count):>12}{'launches':>10}{'GB':>8}{'TFLOP':>8}")
    for side, counts in sides.items():
        per_page = [n / count for n in (counts.launches, counts.bytes, counts.flops)]
        result |= dict(
            zip((f"{side}_{n}" for n in ("launches", "bytes", "flops")), per_page, strict=True)
        )
        print(f"{side:>12}{per_page[0]:>10.0f}{per_page[1] / 1e9:>8.2f}{per_page[2] / 1e12:>8.2f}")
        if args.names:
            print(counts.names.most_common(30))
    print(f"{'ms a page':>12}{'products':>10}{'memory':>8}{'launches':>10}")
    for name in SHOWN:
        for side, counts in sides.items():
            bound = bounds(counts, count, name)
            result |= {f"{side}_{name}_{key}_ms": value for key, value in bound.items()}
            values = f"{bound['flops']:>10.2f}{bound['bytes']:>8.2f}{bound['launches']:>10.2f}"
            print(f"{name + ' ' + side:>12}{values}")
    for key in ("launches", "bytes", "flops"):
        ratio = result[f"ours_{key}"] / result[f"peer_{key}"]
        result["launch_ratio" if key == "launches" else f"{key}_ratio"] = ratio
    print(json.dumps(result))


if __name__ == "__main__":
    main()
