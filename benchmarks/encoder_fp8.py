"""What fp8 linear layers do to the vision encoder: by a reference, and to what a reader reads.

    python -m benchmarks.encoder_fp8 [--pages 32] [--side 320]

First the full-size encoder with random weights on one view, in fp32, with the linear layers of one
part after the other rounded to fp8 and back as vLLM does: weights by output channel or by tensor,
inputs by token. Then the bundled reader in vLLM's own engine, whose fp8 layers run on a CPU as on a
GPU, by torch's scaled product. Relative rms of the embeddings, share of wrong characters; no times,
since a CPU has no fp8 units. Prints tables and, as the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.encoder import tower_like_the_checkpoint
from benchmarks.machine import headline, machine
from vllm_dsocr.encoder.assembly import encode_views

FP8 = torch.float8_e4m3fn
MOST = torch.finfo(FP8).max
PARTS = {
    "SAM, attention": ("sam_model", "attn"),
    "SAM, feed-forward": ("sam_model", "mlp"),
    "CLIP, attention": ("vision_model", "self_attn"),
    "CLIP, feed-forward": ("vision_model", "mlp"),
    "projector": ("projector", ""),
    "all": ("", ""),
}
METHODS = ("fp8_per_channel", "fp8_per_tensor")
ENGINE: dict[str, Any] = {
    "dtype": "bfloat16",
    "enforce_eager": True,
    "max_model_len": 1024,
    "kv_cache_memory_bytes": 256 << 20,
    "seed": 0,
}


def rounded(x: Tensor, by_row: bool) -> Tensor:
    """To fp8 and back, with one scale for each row or one for all."""
    most = x.abs().amax(-1, keepdim=True) if by_row else x.abs().amax()
    scale = (most.float() / MOST).clamp(min=torch.finfo(torch.float32).tiny)
    return ((x.float() / scale).clamp(-MOST, MOST).to(FP8).float() * scale).to(x.dtype)


class RoundedLinear(nn.Linear):
    """What vLLM's fp8 layers compute, in the precision of the weights."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(rounded(x, by_row=True), self.weight, self.bias)


def round_linears(tower: nn.Module, method: str, part: tuple[str, str] = ("", "")) -> nn.Module:
    """The layers of a VisionTower whose path starts with and holds these words, in place."""
    first, within = part
    for path, module in tower.named_modules():
        if isinstance(module, nn.Linear) and path.startswith(first) and within in path:
            module.weight.data = rounded(module.weight.data, method == "fp8_per_channel")
            module.__class__ = RoundedLinear
    return tower


def difference(got: Tensor, want: Tensor) -> float:
    """Relative rms."""
    return float((got - want).norm() / want.norm())


@torch.inference_mode()
def by_reference(side: int) -> dict[str, float]:
    tower = tower_like_the_checkpoint().float()
    views = torch.randint(0, 256, (1, 3, side, side), generator=torch.Generator().manual_seed(0))
    want = encode_views(tower, views.byte())
    found = {}
    for method in METHODS:
        for name, part in PARTS.items():
            changed = round_linears(copy.deepcopy(tower), method, part)
            found[f"{method}, {name}"] = difference(encode_views(changed, views.byte()), want)
            print(f"{method:<18}{name:<22}{found[f'{method}, {name}']:.4f}", flush=True)
    return found


def read_by(method: str | None, count: int) -> float:
    """Share of wrong characters of the bundled reader, its encoder quantised by `method`."""
    from vllm import LLM, SamplingParams

    import vllm_dsocr
    from benchmarks.serving import READER, SEED, sheets
    from vllm_dsocr.metrics import edit_distance

    vllm_dsocr.register()
    flags: dict[str, Any] = {}
    if method:
        targets = {f"{part}.*": method for part in ("sam_model", "vision_model", "projector")}
        flags = {
            "quantization": "online",
            "quantization_config": {"targets": targets},
            "additional_config": {"dsocr": {"quantize_encoder": True}},
        }
    llm = LLM(str(READER), **ENGINE, **flags)
    pages = sheets(count, SEED)
    prompts = [
        {"prompt": "<image>\nFree OCR.", "multi_modal_data": {"image": p.image}} for p in pages
    ]
    answers = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=512), use_tqdm=False)
    wrong = sum(
        edit_distance(answer.outputs[0].text.strip(), page.text)
        for answer, page in zip(answers, pages, strict=True)
    )
    return wrong / sum(len(page.text) for page in pages)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", type=int, default=32, help="that the reader reads")
    parser.add_argument("--side", type=int, default=320, help="of the view, px")
    args = parser.parse_args()
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "WARNING"}
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    print(headline(), flush=True)
    result: dict[str, Any] = {**machine(), "relative_rms": by_reference(args.side), "cer": {}}
    for method in (None, METHODS[0]) if args.pages else ():  # the CPU build lacks by tensor
        result["cer"][method or "bf16"] = rate = read_by(method, args.pages)
        print(f"{method or 'bf16':<18}{'reader, wrong':<22}{rate:.4f}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
