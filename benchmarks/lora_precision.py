"""LoRA of the bundled reader on bases in other precisions, as short as a slow CPU needs it.

    python -m benchmarks.lora_precision [--pages 24] [--epochs 3] [--held-out 8]

From the repository's root. Pages, font, rank and rate are those of `lora_bases`, models are loaded
as `dsocr train` loads them, and a base in bf16 computes in bf16 (see `bf16.py`). The towers, which
learn nothing, run once a page instead of once a step, and pages are not read: of the reader as it
is stored, with each adapter in turn, every next character is asked for after the true ones before
it. Bases are tuned side by side, each in a process of its own. Prints a table and, as the last
line, one JSON object: wrong characters per character, peak memory above that before the run.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bf16 import bf16_units
from benchmarks.finetune_reader import BATCH, LORA, LORA_RATE, font_file, render
from benchmarks.machine import forget_peak, headline, machine, resident
from examples.demo import READER
from vllm_dsocr.cli.engines import positive
from vllm_dsocr.config import IGNORE_INDEX
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor
from vllm_dsocr.hf.model.loss import next_tokens
from vllm_dsocr.hf.training import PageCollator, PageDataset, read_samples
from vllm_dsocr.hf.training.lora import BASES, base_model, load_with_adapter
from vllm_dsocr.hf.training.run import prepare_model
from vllm_dsocr.hf.training.settings import settings_from

WARMUP = 2  # steps
Page = tuple[dict[str, Any], Tensor]  # an item without its image, and what the towers make of it


def encoded(model: nn.Module, folder: Path, collate: PageCollator) -> list[Page]:
    """Each page of a folder, through the towers once."""
    dataset = PageDataset(read_samples(folder), collate.processor)
    pages = []
    for item in (dataset[index] for index in range(len(dataset))):
        batch = collate([item])
        inputs = [batch[key] for key in ("images", "images_seq_mask", "images_spatial_crop")]
        placed = base_model(model).model.place_images(*inputs)
        pages.append(({**item, "images": ()}, placed[batch["images_seq_mask"]]))
    return pages


def batch_of(pages: Sequence[Page], collate: PageCollator) -> dict[str, Any]:
    batch = collate([item for item, _ in pages])
    mask = batch["images_seq_mask"]
    embeds = pages[0][1].new_zeros(*mask.shape, pages[0][1].shape[-1])
    embeds[mask] = torch.cat([embedding for _, embedding in pages])
    kept = {key: batch[key] for key in ("input_ids", "attention_mask", "labels")}
    return {**kept, "images_seq_mask": mask, "image_embeds": embeds, "use_cache": False}


def tune(model: nn.Module, pages: list[Page], collate: PageCollator, epochs: int) -> list[float]:
    """Losses. The order of pages is the same for every base."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=LORA_RATE, weight_decay=0.0)
    steps = epochs * -(-len(pages) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: _rate(n, steps))
    rng, losses = Random(1), []
    model.train()
    for _ in range(epochs):
        order = rng.sample(pages, len(pages))
        for start in range(0, len(order), BATCH):
            loss = model(**batch_of(order[start : start + BATCH], collate)).loss
            loss.backward()
            nn.utils.clip_grad_norm_(learning, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(round(loss.item(), 4))
    return losses


def _rate(step: int, steps: int) -> float:
    if step < WARMUP:
        return (step + 1) / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (steps - WARMUP)))


@torch.inference_mode()
def error_rate(model: nn.Module, pages: Sequence[Page], collate: PageCollator) -> float:
    """Wrong next characters per character."""
    wrong = total = 0
    for page in pages:
        batch = batch_of([page], collate)
        targets = next_tokens(batch.pop("labels"))
        counted = targets != IGNORE_INDEX
        wrong += int((model(**batch).logits.argmax(-1) != targets)[counted].sum())
        total += int(counted.sum())
    return round(wrong / total, 5)


def measured(
    base: str, out: Path, epochs: int, seen: list[Page], held_out: list[Page], collate: PageCollator
) -> dict[str, Any]:
    """One base, in the process that calls; `seen` is what towers in fp32 make of the pages."""
    torch.manual_seed(1)
    values = {"model": str(READER), "data": str(out), "output": str(out / base)}
    settings = settings_from({**values, "lora": {**LORA, "base": base}})
    forget_peak()
    before = resident("VmRSS")
    with bf16_units():
        model = prepare_model(settings, checkpointing=False)
        own = encoded(model, out / "train", collate) if base == "bfloat16" else seen
        losses = tune(model, own, collate, epochs)
    peak = round((resident("VmHWM") - before) / 2**20)
    model.save_pretrained(out / base)
    adapted = load_with_adapter(out / base, str(READER)).float().eval()
    rate = error_rate(adapted, held_out, collate)
    return {"error_rate": rate, "peak_mib": peak, "first_loss": losses[0], "last_loss": losses[-1]}


def _reported(pipe: Any, *args: Any) -> None:
    pipe.send(measured(*args))


def measure(args: argparse.Namespace, out: Path) -> dict[str, Any]:
    font = font_file(args.font)
    render(out / "train", args.pages, font, held_out=False)
    render(out / "held-out", args.held_out, font, held_out=True)
    collate = PageCollator(DeepseekOCRProcessor.from_pretrained(READER))
    model = DeepseekOCRForCausalLM.from_pretrained(READER, dtype=torch.float32).eval()
    seen, held_out = (encoded(model, out / name, collate) for name in ("train", "held-out"))
    result: dict[str, Any] = {"before": error_rate(model, held_out, collate)}
    fork, pipes = multiprocessing.get_context("fork"), {}
    for base in BASES:
        pipes[base], end = fork.Pipe(duplex=False)
        work = (end, base, out, args.epochs, seen, held_out, collate)
        fork.Process(target=_reported, args=work).start()
        end.close()
    for base, pipe in pipes.items():
        result[base] = pipe.recv()
        print(base, result[base], flush=True)
        result[base]["ratio"] = round(
            result[base]["error_rate"] / result[BASES[0]]["error_rate"], 3
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--font", default="DejaVuSerif-Italic")
    parser.add_argument("--pages", type=positive, default=24, help="to train on")
    parser.add_argument("--epochs", type=positive, default=3)
    parser.add_argument("--held-out", type=positive, default=8)
    args = parser.parse_args()
    torch.set_num_threads(1)  # processes run side by side
    result = measure(args, Path(tempfile.mkdtemp(prefix="dsocr-")))
    print(f"{headline()}\n{args.font}, {args.pages} pages, {args.epochs} epochs")
    print(
        f"{'base':>9} {'wrong':>7} {'to fp32':>8} {'peak MiB':>9} {'loss, first':>12} {'last':>7}"
    )
    print(f"{'untouched':>9} {result['before']:>7.4f}")
    for base in BASES:
        row = result[base]
        print(f"{base:>9} {row['error_rate']:>7.4f} {row['ratio']:>8.3f} {row['peak_mib']:>9} "
              f"{row['first_loss']:>12.4f} {row['last_loss']:>7.4f}")  # fmt: skip
    settings = {"font": args.font, "pages": args.pages, "held_out": args.held_out}
    print(json.dumps({**settings, "epochs": args.epochs, **result, **machine()}))


if __name__ == "__main__":
    main()
