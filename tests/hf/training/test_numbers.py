"""What the Trainer makes of losses, batches and metrics, held against a computation by hand."""

import copy
import json

import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from transformers import EarlyStoppingCallback, Trainer, TrainingArguments

from vllm_dsocr.config import IGNORE_INDEX
from vllm_dsocr.hf.training import (
    PageCollator,
    PageDataset,
    PageTrainer,
    make_trainer,
    read_samples,
)
from vllm_dsocr.hf.training.settings import SettingsError, settings_from

SMOOTHING = 0.1
EXACT = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """Pages of several sizes and answers, one sample without an image."""
    folder = tmp_path_factory.mktemp("numbers")
    texts = ("one", "a second page", "3", "the fourth page of them all", "no picture", "six", "x y")
    lines = []
    for number, text in enumerate(texts):
        line = {"answer": text, "prompt": "Say something."}
        if text != "no picture":
            image = Image.new("L", (60 + 20 * number, 50), "white")
            ImageDraw.Draw(image).text((5, 5), text, fill="black")
            image.save(folder / f"{number}.png")
            line |= {"image": f"{number}.png", "prompt": "<image>\nFree OCR."}
        lines.append(json.dumps(line))
    (folder / "data.jsonl").write_text("\n".join(lines))
    return read_samples(folder / "data.jsonl")


@pytest.fixture
def trained(model):
    return copy.deepcopy(model).train()


def arguments(folder, **changes):
    values = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no",
              "remove_unused_columns": False, "per_device_train_batch_size": 2,
              "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 1.0, "max_steps": 1,
              "lr_scheduler_type": "constant", "logging_steps": 1, "seed": 1,
              "prediction_loss_only": True, "train_sampling_strategy": "sequential"}  # fmt: skip
    return TrainingArguments(output_dir=str(folder), **values | changes)


def make(kind, model, processor, samples, args):
    more = {"processor": processor} if kind is PageTrainer else {}
    data = PageDataset(samples, processor)
    return kind(model, args, PageCollator(processor), train_dataset=data, **more)


def smoothed_by_hand(logits, labels):
    """(1 - e) of the negative log likelihood of the next token, e of the mean over all tokens."""
    losses = []
    for row, own in zip(logits.double(), labels, strict=True):
        for position in range(len(own) - 1):
            token = own[position + 1].item()
            if token != IGNORE_INDEX:
                log = row[position] - row[position].exp().sum().log()
                losses.append(-(1 - SMOOTHING) * log[token] - SMOOTHING * log.mean())
    return torch.stack(losses).mean().float()


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("kind", [Trainer, PageTrainer])
@pytest.mark.parametrize("adapters", [False, True])
def test_label_smoothing_is_that_of_the_next_token(
    kind, lean, adapters, trained, processor, samples, tmp_path
):
    batch = PageCollator(processor)([PageDataset(samples, processor)[i] for i in range(3)])
    with torch.no_grad():
        logits = trained(**{**batch, "labels": None}).logits
    expected = smoothed_by_hand(logits, batch["labels"])
    trained.lean_loss = lean
    if adapters:
        from vllm_dsocr.hf.training.lora import LoraSettings, add_lora

        trained = add_lora(trained, LoraSettings(rank=2))
    args = arguments(tmp_path, label_smoothing_factor=SMOOTHING)
    trainer = make(kind, trained, processor, samples, args)
    torch.testing.assert_close(trainer.compute_loss(trained, dict(batch)), expected, **EXACT)


def test_smoothed_steps_are_logged_as_computed(trained, processor, samples, tmp_path):
    """Two micro-batches of unlike lengths, through the whole loop, lean and plain."""
    batches = [PageCollator(processor)([PageDataset(samples, processor)[i] for i in pair])
               for pair in ((0, 1), (2, 3))]  # fmt: skip
    with torch.no_grad():
        parts = [(trained(**{**b, "labels": None}).logits, b["labels"]) for b in batches]
    counts = [(labels[:, 1:] != IGNORE_INDEX).sum() for _, labels in parts]
    weighted = (smoothed_by_hand(*part) * n for part, n in zip(parts, counts, strict=True))
    expected = sum(weighted) / sum(counts)
    args = {"label_smoothing_factor": SMOOTHING, "gradient_accumulation_steps": 2}
    for kind, lean in ((Trainer, False), (PageTrainer, False), (PageTrainer, True)):
        model = copy.deepcopy(trained)
        model.lean_loss = lean
        trainer = make(kind, model, processor, samples[:4], arguments(tmp_path, **args))
        trainer.train()
        assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)


def router_step(model, processor, samples, folder, **changes):
    """How far one step of plain gradient descent moves every router."""
    model = copy.deepcopy(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    make(Trainer, model, processor, samples, arguments(folder, **changes)).train()
    moved = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    return moved, {n: m for n, m in moved.items() if ".gate." in n}


@pytest.fixture
def balanced(trained):
    """A model whose balance loss is as large as its other loss."""
    trained.config.aux_loss_alpha = 1.0
    trained.model.config.aux_loss_alpha = 1.0
    return trained


@pytest.mark.parametrize("checkpointing", [False, True])
def test_micro_batches_move_the_router_as_one_batch_does(
    checkpointing, balanced, processor, samples, tmp_path
):
    """Answers and pages of unlike lengths: padding and shares differ between the two."""
    more = {"gradient_checkpointing": checkpointing}
    one, routers = router_step(
        balanced, processor, samples[:6], tmp_path, per_device_train_batch_size=6
    )
    many, _ = router_step(
        balanced, processor, samples[:6], tmp_path, per_device_train_batch_size=1,
        gradient_accumulation_steps=6, **more,
    )  # fmt: skip
    assert all(move.abs().sum() > 0 for move in routers.values())
    torch.testing.assert_close(many, one, rtol=1e-3, atol=2e-5)
    balanced.config.aux_loss_alpha = balanced.model.config.aux_loss_alpha = 0.0
    _, without = router_step(
        balanced, processor, samples[:6], tmp_path, per_device_train_batch_size=6
    )
    for name, move in routers.items():
        assert (move - without[name]).norm() > 0.1 * move.norm()  # it is there at all


def test_the_balance_loss_follows_the_scale_of_the_loss(balanced, processor, samples):
    """As under the scaler of fp16, or a loss divided by the number of micro-batches."""
    batch = PageCollator(processor)([PageDataset(samples, processor)[i] for i in range(2)])
    grads = []
    for scale in (1.0, 1024.0, 0.25):
        model = copy.deepcopy(balanced)
        (model(**batch).loss * scale).backward()
        grads.append({n: p.grad / scale for n, p in model.named_parameters() if ".gate." in n})
    torch.testing.assert_close(grads[1], grads[0])
    torch.testing.assert_close(grads[2], grads[0])


def test_the_balance_loss_is_that_of_real_tokens_weighted_by_labels(balanced, processor, samples):
    """Its gradient against one built by hand from the router's scores alone."""
    batch = PageCollator(processor)([PageDataset(samples, processor)[i] for i in range(3)])
    layers = [layer.mlp for layer in balanced.model.layers if hasattr(layer.mlp, "experts")]
    seen = {}
    hooks = [mlp.register_forward_pre_hook(lambda m, x: seen.update({m: x[0].detach()}))
             for mlp in layers]  # fmt: skip
    balanced(**batch).loss.backward()
    [hook.remove() for hook in hooks]
    with_balance = {mlp: mlp.gate.weight.grad.clone() for mlp in layers}
    balanced.zero_grad()
    balanced.config.aux_loss_alpha = balanced.model.config.aux_loss_alpha = 0.0
    balanced(**batch).loss.backward()
    last = layers[-1]  # no later router hangs on its own
    share = (batch["labels"][:, 1:] != IGNORE_INDEX).sum(1)
    weights = share / share.sum()
    gate = last.gate.weight.detach().clone().requires_grad_()
    total = torch.zeros(())
    for row, real, weight in zip(seen[last], batch["attention_mask"].bool(), weights, strict=True):
        scores = nn.functional.linear(row[real], gate).softmax(-1)
        k, experts = balanced.config.num_experts_per_tok, scores.shape[-1]
        choices = scores.topk(k).indices.flatten().tolist()
        for expert in range(experts):
            part = experts * choices.count(expert) / len(choices)
            total = total + weight * part * scores[:, expert].mean()
    total.backward()
    difference = with_balance[last] - last.gate.weight.grad
    torch.testing.assert_close(difference, gate.grad, rtol=1e-3, atol=1e-6)


RATES = [0.9, 0.2, 0.5, 0.6, 0.7]


def settings(samples_folder, tiny_path, out, **trainer):
    values = {"max_steps": 5, "save_steps": 1, "eval_steps": 1, "eval_strategy": "steps",
              "learning_rate": 1e-4, "use_cpu": True, "disable_tqdm": True}  # fmt: skip
    return settings_from({
        "model": str(tiny_path), "data": str(samples_folder), "output": str(out), "eval_pages": 1,
        "eval_data": str(samples_folder), "page": {"mode": "tiny"}, "trainer": values | trainer,
    })  # fmt: skip


@pytest.fixture
def rated(samples, tiny_path, processor, tmp_path, monkeypatch):
    """A trainer whose evaluations find these error rates, one after the other."""

    def build(rates=RATES, **trainer):
        folder = samples[0].images[0].parent / "data.jsonl"
        made = make_trainer(settings(folder, tiny_path, tmp_path / "out", **trainer), processor)
        left = iter(rates)
        monkeypatch.setattr(made, "_character_error_rate", lambda *args: next(left))
        return made

    return build


@pytest.mark.parametrize("name", ["eval_cer", "cer"])
def test_the_lowest_error_rate_is_the_best_and_stops_early(name, rated):
    trainer = rated(metric_for_best_model=name, load_best_model_at_end=True, save_only_model=True)
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=1))
    trainer.train()
    assert trainer.state.best_metric == 0.2
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-2")
    assert trainer.state.global_step == 3  # best at 2, then one that is worse
    lines = [line for line in trainer.state.log_history if "eval_cer" in line]
    assert [line["eval_cer"] for line in lines] == RATES[:3]
    assert all("eval_loss" in line for line in lines)


def test_a_worst_that_is_wanted_is_refused(samples, tiny_path, tmp_path):
    with pytest.raises(SettingsError, match="greater_is_better"):
        settings("d", tiny_path, tmp_path, metric_for_best_model="eval_cer", greater_is_better=True)
