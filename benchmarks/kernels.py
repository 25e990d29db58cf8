"""What compilers make of the attention kernels for GPUs that are not here: registers, spills.

    python -m benchmarks.kernels [--report benchmarks/results/kernels.md] [--capability 80 90]

Compiles this package's attention over a grid of patches and vLLM's own (global attention only, its
score tables made by torch) for bf16, 12 heads of 64, and reads the result. Needs Triton, and vLLM
for the second; no GPU. Prints a table and, as the last line, one JSON object. Exits with 1 when a
configuration that may serve spills.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from vllm_dsocr.encoder.attention.fused import (
    LAUNCHES,
    POSITIONS_BLOCK,
    attention_constants,
    constants,
)
from vllm_dsocr.encoder.attention.kernels import attention_kernel, positions_kernel

CAPABILITIES = (80, 89, 90, 100, 120)
HEADS, DIM = 12, 64
# Side of the grid, window: a 1024 px view whole and in windows, a 640 px tile whole.
SHAPES = ((64, 0), (40, 0), (64, 14))
TENSOR = ("mma.sync", "wgmma.mma_async", "tcgen05.mma")
ALIGNED = [["tt.divisibility", 16]]
COLUMNS = (
    "| kernel | grid | sm | registers | spilled, bytes | shared, KiB "
    "| tensor instructions | global loads | copies to shared |"
)


@dataclass(frozen=True)
class Resources:
    """Of one compiled kernel; instructions are those in its text, loops counted once.

    registers: per thread. spilled: bytes of stack per thread. shared: bytes per block.
    """

    registers: int
    spilled: int
    shared: int
    tensor_instructions: int
    global_loads: int
    copies: int


def resources(kernel: CompiledKernel) -> Resources:
    """Read from the machine code and from the PTX that it was made of."""
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        cubin.write(kernel.asm["cubin"])
        cubin.flush()
        command = [tool, "--dump-resource-usage", cubin.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    ptx = kernel.asm["ptx"]
    return Resources(
        int(re.search(r"REG:(\d+)", usage)[1]),
        int(re.search(r"STACK:(\d+)", usage)[1]) + int(re.search(r"LOCAL:(\d+)", usage)[1]),
        kernel.metadata.shared,
        sum(ptx.count(name) for name in TENSOR),
        len(re.findall(r"\bld\.global", ptx)),
        len(re.findall(r"\bcp\.async\.c[ag]", ptx)),
    )


def attention(capability: int, side: int, window: int, launch: str) -> CompiledKernel:
    """The attention kernel in one of fused.LAUNCHES."""
    how = LAUNCHES[launch]
    fixed = shape(side, window) | attention_constants(how)
    options = {"num_warps": how.warps, "num_stages": how.stages}
    return compiled(attention_kernel, {"scale": "fp32"}, fixed, capability, options)


def positions(capability: int, side: int, window: int) -> CompiledKernel:
    """The kernel that scores positions."""
    queries, distances = POSITIONS_BLOCK
    fixed = shape(side, window) | {"BLOCK_M": queries, "BLOCK_L": distances}
    return compiled(positions_kernel, {"num_tokens": "i32"}, fixed, capability, {})


def shape(side: int, window: int) -> dict[str, Any]:
    return constants(side, window, HEADS, DIM, torch.bfloat16)


def theirs(capability: int, side: int) -> CompiledKernel:
    """vLLM's, launched as vLLM launches it."""
    kernel = their_kernel()
    fixed = {"num_tokens": side * side, "num_heads": HEADS, "key_width": side}
    fixed |= {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_D": DIM}
    # A stride of one is a constant to Triton.
    fixed |= {f"stride_{name}": 1 for name in ("qd", "kd", "vd", "rhk", "rwk", "od")}
    types = {name: "i32" for name in kernel.arg_names if name.startswith("stride")}
    options = {"num_warps": 4, "num_stages": 2}
    return compiled(kernel, types | {"scale": "fp32"}, fixed, capability, options)


@functools.cache
def their_kernel() -> Any:
    """As Triton sees it on a GPU; without one vLLM leaves Triton's decorator and names out."""
    from vllm.model_executor.models import deepencoder

    kernel = deepencoder._deepencoder_rel_pos_attention_kernel
    if not hasattr(kernel, "arg_names"):
        log2e = triton.language.constexpr(math.log2(math.e))
        vars(deepencoder).update(tl=triton.language, LOG2E=log2e)
        kernel = triton.jit(kernel)
    return kernel


def compiled(
    kernel: Any,
    types: dict[str, str],
    fixed: dict[str, Any],
    capability: int,
    options: dict[str, Any],
) -> CompiledKernel:
    """Pointers are to bf16 and, like strides, multiples of 16."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in fixed else types.get(n, "*bf16") for n in names}
    aligned = {
        (i,): ALIGNED for i, n in enumerate(names) if n.endswith("_ptr") or n.startswith("stride")
    }
    aligned = {at: how for at, how in aligned.items() if names[at[0]] not in fixed}
    source = ASTSource(kernel, signature, fixed, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


def rows(capabilities: list[int]) -> Iterator[tuple[str, str, int, Resources]]:
    """Kernel, grid, capability and what it uses; ours first, vLLM's beside it."""
    for capability in capabilities:
        for side, window in SHAPES:
            grid = f"{side} x {side}" + (f" in {window} x {window}" if window else "")
            for launch, how in LAUNCHES.items():
                if capability // 10 in how.spills_on:
                    continue
                used = resources(attention(capability, side, window, launch))
                yield launch, grid, capability, used
            yield "positions", grid, capability, resources(positions(capability, side, window))
            if not window:
                yield "vLLM's", grid, capability, resources(theirs(capability, side))


def line(name: str, grid: str, capability: int, used: Resources) -> str:
    cells = (
        name, grid, capability, used.registers, used.spilled, f"{used.shared / 1024:.0f}",
        used.tensor_instructions, used.global_loads, used.copies,
    )  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--report", type=Path, help="write the table there as Markdown")
    parser.add_argument("--capability", type=int, nargs="+", default=list(CAPABILITIES))
    args = parser.parse_args()
    table, spilling = [COLUMNS, "|---" * 9 + "|"], []
    print("\n".join(table))
    for name, grid, capability, used in rows(args.capability):
        table.append(line(name, grid, capability, used))
        print(table[-1], flush=True)
        if name != "vLLM's" and used.spilled:
            spilling.append(f"{name}, {grid}, sm_{capability}")
    if args.report:
        text = args.report.read_text(encoding="utf-8") if args.report.exists() else ""
        before = text.partition(COLUMNS)[0]
        args.report.write_text(before + "\n".join(table) + "\n", encoding="utf-8")
    versions = {"triton": triton.__version__, "torch": torch.__version__}
    print(json.dumps({**versions, "kernels": len(table) - 2, "spilling": spilling}))
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
