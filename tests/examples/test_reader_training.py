"""The training goes on from a checkpoint and from its own files, one small step at a time."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
import torch.distributed as dist

pytest.importorskip("matplotlib", reason="the pages use matplotlib's DejaVu fonts")
pytest.importorskip("transformers")

from examples.reader_training import batches  # noqa: E402
from examples.reader_training.checkpoint import read_weights  # noqa: E402
from examples.reader_training.schedule import LAYOUT, PLANS, between  # noqa: E402
from examples.reader_training.train import Budget, Trainer, export  # noqa: E402


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One process, batches of two strips. Engines of earlier tests leave a group of one behind."""
    monkeypatch.setattr(batches, "BATCH_SIZES", {256: 2, 384: 2, 640: 2})
    monkeypatch.setattr(batches, "POOL", 2)
    if dist.is_initialized():
        yield
        return
    store = f"file://{tmp_path / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


def test_a_run_starts_from_a_checkpoint_and_goes_on_from_its_files(
    alone: None, reader: Path, tmp_path: Path
) -> None:
    args = Namespace(out=tmp_path, seed=3, plan="layout", init=reader, dtype="float32")
    first = Trainer(args)
    start = read_weights(reader)
    assert all(torch.equal(p, start[name]) for name, p in weights(first).items())
    maker = batches.BatchMaker(3, 0)
    first.alone = 1
    first.train_step(0.2, Random(1), maker)
    assert all(torch.equal(p, start[name]) for name, p in weights(first).items()), "heads alone"
    for _ in range(2):
        first.train_step(0.2, Random(1), maker)
    moved = weights(first)
    assert not torch.equal(moved["lm_head.weight"], start["lm_head.weight"])
    frozen = "model.sam_model.patch_embed.proj.weight"
    assert torch.equal(moved[frozen], start[frozen]), "frozen until later"
    first.save()

    second = Trainer(Namespace(**{**vars(args), "init": None}))
    second.resume()
    assert (second.step, second.pages) == (3, 6)
    (tmp_path / "pages").write_text("12")
    assert Budget(tmp_path / "pages").share(second.pages) == 0.5
    assert all(torch.equal(p, moved[name]) for name, p in weights(second).items())
    second.train_step(0.6, Random(1), maker)
    assert not torch.equal(weights(second)[frozen], moved[frozen]), "no longer frozen"

    export(tmp_path, tmp_path / "exported")
    exported = read_weights(tmp_path / "exported")["lm_head.weight"]
    low, high = (torch.minimum, torch.maximum)
    bounds = start["lm_head.weight"], moved["lm_head.weight"]
    slack = 0.01 * bounds[1].abs() + 1e-3  # bf16
    assert bool((exported >= low(*bounds) - slack).all()), "the saved weights are averages"
    assert bool((exported <= high(*bounds) + slack).all())


@pytest.mark.parametrize("name", PLANS)
def test_plans_cover_the_whole_time(name: str) -> None:
    plan = PLANS[name]
    rates = [plan.rate(share / 100, 10_000) for share in range(101)]
    assert rates[-1] == 0 and max(rates) == plan.peak_rate
    assert rates == sorted(rates, reverse=True)
    for share in (0.0, 0.33, 1.0):
        assert sum(between(plan.heights, share).values()) == pytest.approx(1)
        mix = batches.Mix(**between(plan.pages, share))
        assert 0 < mix.plain <= 1 and 0 < mix.chars <= 1
    assert plan.loss_weights(1.0)["text"] == 1 and plan.loss_weights(1.0)["align"] == 0


def test_pages_of_lines_are_never_forgotten() -> None:
    assert all(0.2 < between(LAYOUT.pages, share / 10)["plain"] < 0.4 for share in range(11))
