"""Peak memory of one training step's forward and backward: lean loss beside the plain one.

    python -m benchmarks.loss_memory [--seq 8192] [--hidden 64] [--device cuda]

A decoder of one small layer with DeepSeek-OCR's own vocabulary, fp32, every position carrying loss.
Each kind runs in a process of its own; on a CPU the kernel's high-water mark of resident memory is
read, on a GPU torch's. What counts is the peak above the state before the call, after a short step
that brings all kernels in. Needs about three times 4 SEQ VOCABULARY bytes. Prints a table and, as
the last line, one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch

from benchmarks.machine import forget_peak, headline, resident
from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM

VOCABULARY = 129_280


def small_model(hidden: int, lean: bool) -> DeepseekOCRForCausalLM:
    torch.manual_seed(0)
    towers = {
        "sam_vit_b": {"width": 32, "layers": 1, "heads": 2, "downsample_channels": [32, 32]},
        "clip-l-14-224": {"width": 32, "layers": 1, "heads": 2},
    }
    config = DeepseekOCRConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vision_config={"width": towers},
        projector_config={"input_dim": 64, "n_embed": hidden},
    )
    model = DeepseekOCRForCausalLM(config).train()
    model.lean_loss = lean
    return model


def step(model: DeepseekOCRForCausalLM, ids: torch.Tensor) -> float:
    model.zero_grad(set_to_none=True)
    loss = model(ids, labels=ids, use_cache=False).loss
    loss.backward()
    return loss.item()


def measure(seq: int, hidden: int, device: str, lean: bool) -> dict[str, float]:
    """Peak above the state before the step (MiB), the loss, seconds."""
    model = small_model(hidden, lean).to(device)
    ids = torch.randint(0, VOCABULARY, (1, seq), device=device)
    step(model, ids[:, :64])
    model.zero_grad(set_to_none=True)
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    before = torch.cuda.memory_allocated() if cuda else resident("VmRSS")
    start = time.perf_counter()
    loss = step(model, ids)
    seconds = time.perf_counter() - start
    peak = torch.cuda.max_memory_allocated() if cuda else resident("VmHWM")
    return {"peak_mib": (peak - before) / 2**20, "loss": loss, "seconds": seconds}


def in_own_process(kind: str, args: argparse.Namespace) -> dict[str, float]:
    sizes = ["--seq", str(args.seq), "--hidden", str(args.hidden), "--device", args.device]
    command = [sys.executable, "-m", "benchmarks.loss_memory", "--kind", kind, *sizes]
    return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seq", type=int, default=8192)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--kind", choices=("plain", "lean"), help="measure this one, here")
    args = parser.parse_args()
    if args.kind:
        print(json.dumps(measure(args.seq, args.hidden, args.device, args.kind == "lean")))
        return
    print(f"{headline()}; {args.seq} positions, vocabulary {VOCABULARY}")
    print(f"{'loss':>6} {'peak MiB':>10} {'value':>10} {'seconds':>8}")
    result = {"seq": args.seq, "vocabulary": VOCABULARY, "device": args.device}
    for kind in ("lean", "plain"):
        cost = in_own_process(kind, args)
        print(f"{kind:>6} {cost['peak_mib']:>10.0f} {cost['loss']:>10.6f} {cost['seconds']:>8.1f}")
        result |= {f"{kind}_{name}": value for name, value in cost.items()}
    result["memory_ratio"] = result["lean_peak_mib"] / result["plain_peak_mib"]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
