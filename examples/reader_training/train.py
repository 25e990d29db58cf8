"""Trains the bundled reader on rendered pages: no data set, no pretrained weights of others.

Two processes of one thread each share every step (gloo). Progress is the share of the pages that
OUT/pages asks for, a file that may be edited while training runs: a machine that other work slows
down, or stops, trains the same reader later.
See README.md for the command.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist

from .batches import BatchMaker, Mix
from .checkpoint import new_model, read_weights, save_checkpoint
from .layout.answers import markdown_answer
from .layout.page import held_out_layouts
from .losses import Heads, encoder_losses, head_losses, joint_losses
from .optimiser import Optimiser
from .pages import held_out_pages
from .schedule import MAX_NORM, PLANS, between
from .scores.boxes import overlaps
from .scores.reading import MAX_MARKUP_TOKENS, count_errors, read_images, read_pages

LOG_EVERY = 25  # steps
SAVE_EVERY = 300  # s
READ_EVERY = 1800  # s; takes a minute
HEAD_STEPS, HEAD_RATE = 80, 0.02  # what new heads get before a trained model learns from them
READ_PAGES = {"lines": (16, 0), "layout": (8, 8)}  # per process: without and with layout


class Budget:
    """The number of pages to learn from in all, in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def share(self, pages: int) -> float:
        """0 at the start, 1 once that many are done; the same on all processes."""
        share = torch.zeros(1, dtype=torch.float64)
        if dist.get_rank() == 0:
            share[0] = pages / float(self.path.read_text())
        dist.broadcast(share, 0)
        return float(share)


class Trainer:
    """One process of the training run."""

    def __init__(self, args: argparse.Namespace) -> None:
        torch.manual_seed(args.seed)
        self.out, self.seed, self.rank = args.out, args.seed, dist.get_rank()
        self.plan_name, self.plan = args.plan, PLANS[args.plan]
        dtype = getattr(torch, args.dtype)
        self.model = new_model()
        if args.init:
            self.model.load_state_dict(read_weights(args.init))
        self.alone = HEAD_STEPS if args.init else 0
        self.model.to(dtype)
        config = self.model.config
        neck = config.vision_sizes.sam.neck_channels
        self.heads = Heads(neck, config.hidden_size).to(dtype)
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        heads = {f"heads.{n}": p for n, p in self.heads.named_parameters()}
        self.optimiser = Optimiser({**named, **heads}, self.rank, dist.get_world_size())
        self.step = self.pages = 0
        self.started = time.time()  # by the clock of a run that was never interrupted
        self.sums: dict[str, tuple[float, int]] = {}

    def run(self, budget: Budget) -> None:
        """Train until the pages are done."""
        order = Random(self.seed + self.step)
        batches = BatchMaker(self.seed + self.step, self.rank)
        saved = read = time.time()
        while (share := budget.share(self.pages)) < 1.0:
            self.train_step(share, order, batches)
            if self.step % LOG_EVERY == 0:
                self.log(share)
            if self._agree(time.time() - saved > SAVE_EVERY):
                self.save()
                saved = time.time()
            if self.plan.is_joint(share) and self._agree(time.time() - read > READ_EVERY):
                self.read()
                read = time.time()
        self.read()
        self.save()

    def _agree(self, wish: bool) -> bool:
        flag = torch.tensor([int(wish)])
        dist.broadcast(flag, 0)
        return bool(flag)

    def train_step(self, share: float, order: Random, batches: BatchMaker) -> None:
        """One update on one batch per process."""
        heights = between(self.plan.heights, share)
        height = int(order.choices(list(heights), list(heights.values()))[0])
        joint, alone = self.plan.is_joint(share), self.step < self.alone
        dense = alone or not joint
        batch = batches.next(height, Mix(**between(self.plan.pages, share), dense=dense))
        rate = self.plan.rate(share, self.step - self.alone)
        if not joint:
            losses = encoder_losses(self.model, self.heads, batch)
        elif alone:
            losses, rate = head_losses(self.model, self.heads, batch), HEAD_RATE
        else:
            frozen = share < self.plan.frozen_until
            losses = joint_losses(self.model, self.heads, batch, frozen)
        weights = self.plan.loss_weights(share)
        sum(weights[name] * losses[name] for name in weights if name in losses).backward()
        norm = self.optimiser.step(rate, self.plan.encoder_share(share), MAX_NORM)
        self.step += 1
        self.pages += len(batch.ids) * dist.get_world_size()
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        self._count({**values, "norm": norm, "height": height, "length": batch.ids.shape[1]})

    def _count(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            total, times = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, times + 1)

    def log(self, share: float) -> None:
        """Means since the last line, rank 0 only."""
        means = {name: round(total / times, 4) for name, (total, times) in self.sums.items()}
        self.sums = {}
        minutes = (time.time() - self.started) / 60
        rate = round(self.plan.rate(share, self.step - self.alone), 6)
        head = {"step": self.step, "minutes": round(minutes, 2), "share": round(share, 4)}
        self.write({**head, "pages": self.pages, "rate": rate, **means})

    def read(self) -> None:
        """Error rates on held-out pages of 640 px, each process reading its part."""
        self.model.eval()
        plain, layout = READ_PAGES[self.plan_name]
        pages = held_out_pages(plain, seed=self.rank * plain)
        with self.optimiser.averaged():
            texts = read_pages(self.model, pages)
            layouts = self._read_layouts(layout) if layout else []
        counts = [*count_errors(texts, [page.text for page in pages]), *layouts]
        self.model.train()
        sums = torch.tensor(counts, dtype=torch.float64)
        dist.all_reduce(sums)
        shares = [round(float(a / b), 4) for a, b in sums.view(-1, 2)]
        names = ("cer_640", "markup_cer", "iou")
        self.write({"step": self.step, **dict(zip(names, shares, strict=False))})

    def _read_layouts(self, count: int) -> list[float]:
        pages = held_out_layouts(count, seed=self.rank * count)
        answers = [markdown_answer(page) for page in pages]
        images, prompt = [page.image for page in pages], answers[0].prompt
        texts = read_images(self.model, images, prompt, MAX_MARKUP_TOKENS)
        truths = [answer.text for answer in answers]
        if self.rank == 0:
            (self.out / "reading.txt").write_text(
                "".join(f"--- {t}\n+++ {r}\n" for t, r in zip(truths, texts, strict=True))
            )
        found = [v for t, r in zip(texts, truths, strict=True) for v in overlaps(t, r)]
        return [*count_errors(texts, truths), sum(found), len(found)]

    def write(self, line: dict[str, Any]) -> None:
        """One JSON line to OUT/log.jsonl and the terminal."""
        if self.rank == 0:
            text = json.dumps(line)
            print(text, flush=True)
            with (self.out / "log.jsonl").open("a") as file:
                file.write(text + "\n")

    def save(self) -> None:
        """Write OUT/model.pt and, per process, OUT/state-RANK.pt, from which --resume goes on.

        The files of one step replace those of another together.
        """
        used = time.time() - self.started
        progress = {"step": self.step, "pages": self.pages, "alone": self.alone, "used": used}
        files = {f"state-{self.rank}.pt": {**progress, **self.optimiser.state_dict()}}
        with self.optimiser.averaged():
            if self.rank == 0:
                files["model.pt"] = self.model.state_dict()
            for name, value in files.items():
                torch.save(value, self.out / f"{name}.new")
        dist.barrier()
        for name in files:
            (self.out / f"{name}.new").replace(self.out / name)

    def resume(self) -> None:
        """Go on from the files of `save`; what no optimiser steps is in the model's alone."""
        self.model.load_state_dict(torch.load(self.out / "model.pt", weights_only=True))
        state = torch.load(self.out / f"state-{self.rank}.pt", weights_only=True)
        self.optimiser.load_state_dict(state)
        self.step, self.pages, self.alone = state["step"], state["pages"], state["alone"]
        self.started = time.time() - state["used"]


def export(out: Path, folder: Path) -> None:
    """OUT/model.pt -> a checkpoint folder that vLLM and transformers load."""
    save_checkpoint(torch.load(out / "model.pt", weights_only=True), folder)


def work(rank: int, args: argparse.Namespace) -> None:
    """Body of one process."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=args.processes)
    trainer = Trainer(args)
    if args.resume:
        trainer.resume()
    if rank == 0:
        (args.out / "pages").write_text(str(args.pages))
    dist.barrier()
    trainer.run(Budget(args.out / "pages"))
    dist.destroy_process_group()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="work folder for state and log")
    parser.add_argument("--pages", type=int, default=100_000, help="pages of the whole run")
    parser.add_argument("--plan", choices=PLANS, default="layout", help="what is learnt")
    parser.add_argument("--init", type=Path, help="checkpoint folder whose weights to start from")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=29511)
    parser.add_argument("--resume", action="store_true", help="go on from the files in OUT")
    parser.add_argument("--export", type=Path, help="only write OUT/model.pt as a checkpoint here")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    if args.export:
        export(args.out, args.export)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(work, (args,), nprocs=args.processes)


if __name__ == "__main__":
    main()
