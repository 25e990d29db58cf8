"""Trains the bundled reader from scratch on rendered pages: no data set, no pretrained weights.

Two processes of one thread each share every step (gloo). Progress is the share of the wall time
between the start and the deadline in OUT/deadline, a file that may be edited while training runs.
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

from . import schedule
from .batches import BatchMaker
from .checkpoint import new_model, save_checkpoint
from .losses import Heads, encoder_losses, joint_losses
from .optimiser import Optimiser
from .pages import held_out_pages
from .reading import count_errors, read_pages

LOG_EVERY = 50  # steps
SAVE_EVERY = 300  # s
READ_EVERY = 600  # s
READ_PAGES = 16  # per process


class Clock:
    """Share of the time between start and a deadline that a file holds, in Unix seconds."""

    def __init__(self, path: Path, started: float) -> None:
        self.path = path
        self.started = started

    def share(self) -> float:
        """0 at the start, 1 at the deadline; the same on all processes."""
        share = torch.zeros(1, dtype=torch.float64)
        if dist.get_rank() == 0:
            deadline = float(self.path.read_text())
            share[0] = (time.time() - self.started) / (deadline - self.started)
        dist.broadcast(share, 0)
        return float(share)


class Trainer:
    """One process of the training run."""

    def __init__(self, out: Path, seed: int) -> None:
        torch.manual_seed(seed)
        self.out, self.seed, self.rank = out, seed, dist.get_rank()
        self.model = new_model().to(torch.bfloat16)
        config = self.model.config
        neck = config.vision_sizes.sam.neck_channels
        self.heads = Heads(neck, config.hidden_size).to(torch.bfloat16)
        named = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        heads = {f"heads.{n}": p for n, p in self.heads.named_parameters()}
        self.optimiser = Optimiser({**named, **heads}, self.rank, dist.get_world_size())
        self.step = self.pages = 0
        self.used = 0.0  # s of earlier runs
        self.sums: dict[str, float] = {}

    def run(self, clock: Clock) -> None:
        """Train until the deadline."""
        plan = Random(self.seed + self.step)
        batches = BatchMaker(self.seed + self.step, self.rank)
        saved = read = time.time()
        while (share := clock.share()) < 1.0:
            self.train_step(share, plan, batches)
            if self.step % LOG_EVERY == 0:
                self.log(share, clock)
            if self._agree(time.time() - saved > SAVE_EVERY):
                self.save(clock)
                saved = time.time()
            if schedule.is_joint(share) and self._agree(time.time() - read > READ_EVERY):
                self.read()
                read = time.time()
        self.read()
        self.save(clock)

    def _agree(self, wish: bool) -> bool:
        flag = torch.tensor([int(wish)])
        dist.broadcast(flag, 0)
        return bool(flag)

    def train_step(self, share: float, plan: Random, batches: BatchMaker) -> None:
        """One update on one batch per process."""
        mix = schedule.height_mix(share)
        height = plan.choices(list(mix), list(mix.values()))[0]
        joint = schedule.is_joint(share)
        batch = batches.next(height, dense=not joint)
        losses = (joint_losses if joint else encoder_losses)(self.model, self.heads, batch)
        weights = schedule.loss_weights(share)
        sum(weights[name] * losses[name] for name in weights).backward()
        rate = schedule.rate(share, self.step)
        encoder = schedule.encoder_rate_share(share)
        norm = self.optimiser.step(rate, encoder, schedule.MAX_NORM)
        self.step += 1
        self.pages += len(batch.ids) * dist.get_world_size()
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        self._count({**values, "norm": norm, "height": height})

    def _count(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.sums["steps"] = self.sums.get("steps", 0.0) + 1

    def log(self, share: float, clock: Clock) -> None:
        """Means since the last line, rank 0 only."""
        steps = self.sums.pop("steps")
        means = {name: round(total / steps, 4) for name, total in self.sums.items()}
        self.sums = {}
        minutes = (time.time() - clock.started) / 60
        head = {"step": self.step, "minutes": round(minutes, 2), "share": round(share, 4)}
        self.write({**head, "pages": self.pages, "rate": schedule.rate(share, self.step), **means})

    def read(self) -> None:
        """Character error rate on held-out pages of 640 px, each process reading its part."""
        self.model.eval()
        pages = held_out_pages(READ_PAGES, seed=self.rank * READ_PAGES)
        counts = torch.tensor(count_errors(read_pages(self.model, pages), pages))
        self.model.train()
        dist.all_reduce(counts)
        self.write({"step": self.step, "cer_640": round(float(counts[0] / counts[1]), 4)})

    def write(self, line: dict[str, Any]) -> None:
        """One JSON line to OUT/log.jsonl and the terminal."""
        if self.rank == 0:
            text = json.dumps(line)
            print(text, flush=True)
            with (self.out / "log.jsonl").open("a") as file:
                file.write(text + "\n")

    def save(self, clock: Clock) -> None:
        """Write OUT/model.pt and, per process, OUT/state-RANK.pt, from which --resume goes on."""
        progress = {"step": self.step, "pages": self.pages, "used": time.time() - clock.started}
        write(self.out / f"state-{self.rank}.pt", {**progress, **self.optimiser.state_dict()})
        if self.rank == 0:
            write(self.out / "model.pt", self.model.state_dict())

    def resume(self) -> None:
        """Go on from the files of `save`."""
        state = torch.load(self.out / f"state-{self.rank}.pt", weights_only=True)
        self.optimiser.load_state_dict(state)
        self.step, self.pages, self.used = state["step"], state["pages"], state["used"]


def write(path: Path, value: Any) -> None:
    """Save so that an interruption leaves the old file whole."""
    torch.save(value, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def export(out: Path, folder: Path) -> None:
    """OUT/model.pt -> a checkpoint folder that vLLM and transformers load."""
    save_checkpoint(torch.load(out / "model.pt", weights_only=True), folder)


def work(rank: int, args: argparse.Namespace) -> None:
    """Body of one process."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=args.processes)
    trainer = Trainer(args.out, args.seed)
    if args.resume:
        trainer.resume()
    started = time.time() - trainer.used
    if rank == 0:
        (args.out / "deadline").write_text(str(started + 60 * args.minutes))
    dist.barrier()
    trainer.run(Clock(args.out / "deadline", started))
    dist.destroy_process_group()


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="work folder for state and log")
    parser.add_argument("--minutes", type=float, default=95.0, help="wall time of the whole run")
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
