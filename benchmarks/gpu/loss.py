"""The lean loss on the device beside the plain one: value, gradients, time, memory, in fp32."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.bench import Bench, Row, relative_rms

SEQUENCE, HIDDEN, VOCABULARY = 8192, 1280, 129_280
PLAIN_COPIES = 5  # of fp32 logits that the plain loss keeps at its peak, rounded up
MOST_DIFFERENCE = 1e-5
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def run(bench: Bench) -> Iterator[Row]:
    """Both losses, the plain one first; the sequence is shortened to what the memory holds."""
    try:
        from vllm_dsocr.hf.model.loss import lean_cross_entropy
    except ImportError as error:
        yield Row("loss", note=f"skipped: {error}")
        return
    hidden, vocabulary = (16, 1_000) if bench.small else (HIDDEN, VOCABULARY)
    fitting = bench.free_bytes() // (PLAIN_COPIES * 4 * vocabulary) // 256 * 256
    sequence = min(512 if bench.small else SEQUENCE, max(256, fitting))
    head = nn.Linear(hidden, vocabulary, bias=False, device=bench.device)
    inputs = bench.random(1, sequence, hidden, dtype=torch.float32).requires_grad_()
    targets = torch.randint(0, vocabulary, (1, sequence), device=bench.device)
    results = {}
    for name, loss in {"plain": plain_cross_entropy, "lean": lean_cross_entropy}.items():
        results[name] = gradients(loss, head, inputs, targets)
        yield measured(
            bench, f"loss, {name}: {sequence} x {vocabulary}", loss, head, inputs, targets
        )
        bench.clear()
    pairs = zip(results["lean"], results["plain"], strict=True)
    for what, (lean, plain) in zip(("value", "gradient", "head's gradient"), pairs, strict=True):
        error = relative_rms(lean, plain)
        yield Row(f"loss: lean against plain, {what}", error=error, allowed=MOST_DIFFERENCE)


def plain_cross_entropy(head: nn.Module, hidden: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden).float().flatten(0, 1), targets.flatten())


def gradients(loss: Loss, head: nn.Linear, hidden: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """The value, and its gradients by the hidden states and by the head."""
    value = loss(head, hidden, targets)
    return value.detach(), *torch.autograd.grad(value, (hidden, head.weight))


def measured(
    bench: Bench, name: str, loss: Loss, head: nn.Linear, hidden: Tensor, targets: Tensor
) -> Row:
    def call() -> None:
        gradients(loss, head, hidden, targets)

    return Row(name, bench.seconds(call), bench.peak(call), note="forward and backward")
