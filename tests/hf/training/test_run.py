"""Fine-tuning end to end on the tiny checkpoint: settings, parts, resuming, adapters, serving."""

import copy
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from vllm_dsocr.adapter_names import check_adapter
from vllm_dsocr.cli import main
from vllm_dsocr.config import OptionError
from vllm_dsocr.hf import DeepseekOCRForCausalLM
from vllm_dsocr.hf.training import (
    PageCollator,
    PageDataset,
    checkpoint_towers,
    freeze,
    part_of,
    read_pages,
    read_samples,
)
from vllm_dsocr.hf.training.lora import LORA_PARTS, load_with_adapter
from vllm_dsocr.hf.training.settings import SettingsError, settings_from
from vllm_dsocr.hf.training.trainer import LengthGroups

TEXTS = ("first page", "another", "the third of them", "4", "and the last, the longest")
TRAINER = {"max_steps": 4, "save_steps": 2, "logging_steps": 1, "learning_rate": 0.003, "seed": 1,
           "per_device_train_batch_size": 2, "use_cpu": True, "disable_tqdm": True,
           "lr_scheduler_type": "constant", "warmup_steps": 0}  # fmt: skip


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for number, text in enumerate(TEXTS):
        image = Image.new("L", (120, 50 + 5 * number), "white")
        ImageDraw.Draw(image).text((5, 5), text, fill="black")
        image.save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(text)
    return folder


def write_config(tmp_path, pages, tiny_path, **changes):
    values = {"model": str(tiny_path), "data": str(pages), "output": str(tmp_path / "out")}
    values |= {"page": {"mode": "tiny"}, "trainer": TRAINER} | changes
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return str(tmp_path / "config.yaml")


def run(tmp_path, pages, tiny_path, *flags, **changes):
    """`dsocr train` with the output folder `out`; exit code."""
    return main(["train", write_config(tmp_path, pages, tiny_path, **changes), *flags])


def losses(folder):
    state = json.loads((folder / "trainer_state.json").read_text())
    return [line["loss"] for line in state["log_history"] if "loss" in line]


def greedy(model, inputs):
    """16 ids, whatever ends the text."""
    ids = model.generate(**inputs, max_new_tokens=16, eos_token_id=-1, pad_token_id=2)
    return ids[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture(scope="session")
def tuned(tmp_path_factory, pages, tiny_path):
    """A finished full fine-tune: its folder and what the command printed."""
    tmp_path = tmp_path_factory.mktemp("full")
    trainer = {**TRAINER, "bf16": False, "eval_strategy": "steps", "eval_steps": 4}
    changes = {"eval_data": str(pages), "eval_pages": 2, "trainer": trainer, "freeze": ["vision"]}
    assert run(tmp_path, pages, tiny_path, **changes) == 0
    return tmp_path


def test_a_run_learns_and_reads(tuned):
    curve = losses(tuned / "out" / "checkpoint-4")
    assert len(curve) == 4 and curve[-1] < curve[0]
    state = json.loads((tuned / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    assert any(line.get("eval_cer", -1) >= 0 for line in state["log_history"])


RESUMED = {
    "full": {"freeze": ["vision"]},
    "adapters": {"lora": {"rank": 4, "dropout": 0.3}, "strategy": "group_by_length"},
}


@pytest.mark.parametrize("case", ["full", pytest.param("adapters", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_the_curve_of_an_uninterrupted_one(
    case, tmp_path, pages, tiny_path, capsys
):
    changes = dict(RESUMED[case])
    # Three steps an epoch: the checkpoint lies in the middle of the second one.
    trainer = {**TRAINER, "max_steps": 16, "save_steps": 5, "lr_scheduler_type": "linear",
               "train_sampling_strategy": changes.pop("strategy", "random")}  # fmt: skip
    changes |= {"model": str(tiny_path), "trainer": trainer}
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    assert run(tmp_path / "whole", pages, tiny_path, **changes) == 0
    kill_after(5, tmp_path / "killed", pages, tiny_path, **changes)

    # What a run leaves that is killed while it writes a checkpoint.
    out = tmp_path / "killed" / "out"
    (out / "checkpoint-15").mkdir(exist_ok=True)
    (out / "checkpoint-15" / "trainer_state.json").write_text("{")
    assert run(tmp_path / "killed", pages, tiny_path, **changes) == 2
    assert "resume, or choose another output" in capsys.readouterr().err
    assert run(tmp_path / "killed", pages, tiny_path, "--resume", **changes) == 0
    whole = losses(tmp_path / "whole" / "out" / "checkpoint-16")
    assert losses(out / "checkpoint-16") == whole and len(whole) == 16


def kill_after(steps, folder, *args, **changes):
    """`dsocr train` in a process of its own, killed when the checkpoint of that step is whole."""
    state = folder / "out" / f"checkpoint-{steps}" / "trainer_state.json"
    command = [
        sys.executable,
        "-m",
        "vllm_dsocr.cli",
        "train",
        write_config(folder, *args, **changes),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None and not state.exists():
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL


def test_what_is_saved_has_the_layout_of_its_origin(tuned, tiny_path):
    before = load_file(tiny_path / "model.safetensors")
    after = load_file(tuned / "out" / "model.safetensors")
    assert {n: (t.dtype, t.shape) for n, t in after.items()} == {
        n: (t.dtype, t.shape) for n, t in before.items()
    }
    changed = {part_of(n) for n, t in after.items() if not torch.equal(t, before[n])}
    assert changed == {"projector", "language"}
    assert (tuned / "out" / "processor_config.json").exists()


def test_vllm_serves_what_was_saved(tuned, pages):
    pytest.importorskip("vllm")
    from tests.plugin.engines import continuations, prompt, start
    from vllm_dsocr.hf import DeepseekOCRProcessor

    out = tuned / "out"
    image = Image.open(pages / "0.png")
    processor = DeepseekOCRProcessor.from_pretrained(out, resampler="pillow")
    model = DeepseekOCRForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    inputs = processor("<image>\nFree OCR.", image)
    served = continuations(start(out), [prompt("<image>\nFree OCR.", image)])
    assert served == [greedy(model, inputs)]


def test_the_plain_trainer_and_length_groups_do(model, processor, pages, tmp_path):
    dataset = PageDataset(read_samples(pages), processor)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, disable_tqdm=True, report_to="none",
        per_device_train_batch_size=2, train_sampling_strategy="group_by_length", bf16=True,
        gradient_accumulation_steps=2, save_strategy="no", gradient_checkpointing=True,
        remove_unused_columns=False,
    )  # fmt: skip
    trainer = Trainer(
        copy.deepcopy(model), arguments, PageCollator(processor), train_dataset=dataset
    )
    assert trainer.train().training_loss > 0


def test_length_groups_pad_little_and_follow_from_seed_and_epoch():
    lengths = torch.randint(100, 1000, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    items = [{"input_ids": range(length)} for length in lengths]

    def padding(order):
        rows = [[lengths[i] for i in order[start : start + 4]] for start in range(0, 256, 4)]
        return sum(4 * max(row) - sum(row) for row in rows)

    groups = LengthGroups(4, items, seed=1)
    first = list(groups)
    assert sorted(first) == list(range(256))
    assert padding(first) < 0.2 * padding(range(256))
    groups.set_epoch(1)
    assert list(groups) != first
    torch.rand(3)  # what an epoch draws from the global generator
    groups.set_epoch(0)
    assert list(groups) == first


def test_parts_freeze_alone(model):
    frozen = copy.deepcopy(model)
    freeze(frozen, ["projector", "language"])
    learning = {part_of(n) for n, p in frozen.named_parameters() if p.requires_grad}
    assert learning == {"vision"}
    freeze(frozen, [])
    silent = [n for n, p in frozen.named_parameters() if not p.requires_grad]
    assert silent == ["model.vision_model.embeddings.patch_embedding.weight"]


def test_towers_computed_again_give_the_same_gradients(model, processor, pages):
    dataset = PageDataset(read_samples(pages)[:1], processor)
    batch, grads = PageCollator(processor)([dataset[0]]), []
    for again in (False, True):
        trained = copy.deepcopy(model).train()
        if again:
            checkpoint_towers(trained)
        trained(**batch).loss.backward()
        tower = trained.model.sam_model
        grads.append((tower.pos_embed.grad, tower.blocks[1].attn.rel_pos_h.grad))
    torch.testing.assert_close(*grads)


def test_reading_a_batch_equals_reading_alone(model, processor, pages):
    samples = read_samples(pages)[:2]
    together = read_pages(model, processor, samples)
    for sample, text in zip(samples, together, strict=True):
        (alone,) = read_pages(model, processor, [sample])
        assert alone and text.startswith(alone)  # a longer neighbour allows more tokens


def test_adapters_on_every_part_train_and_merge(
    model, pages, tiny_path, tmp_path, processor, capsys
):
    lora = {"rank": 2, "alpha": 8, "parts": list(LORA_PARTS)}
    trainer = {**TRAINER, "max_steps": 2, "learning_rate": 0.05}
    assert run(tmp_path, pages, tiny_path, lora=lora, trainer=trainer) == 0
    assert check_adapter(tmp_path / "out").problems
    assert main(["lora", "check", str(tmp_path / "out")]) == 1
    assert "leaves out" in capsys.readouterr().out

    assert main(["lora", "merge", str(tmp_path / "out"), str(tmp_path / "merged")]) == 0
    merged = DeepseekOCRForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    adapted = load_with_adapter(tmp_path / "out", str(tiny_path)).float()
    dataset = PageDataset(read_samples(pages)[:1], processor)
    batch = PageCollator(processor)([dataset[0]])
    with torch.no_grad():
        with_adapter = adapted.eval()(**batch).logits
        difference = merged.eval()(**batch).logits - with_adapter
        plain = model(**batch).logits - with_adapter
    # Merged weights are stored in bf16, as the checkpoint's are.
    assert difference.norm() < 0.3 * plain.norm()


@pytest.mark.parametrize("part", LORA_PARTS)
def test_every_part_has_linear_maps(part, model):
    import re

    names = [n for n, m in model.named_modules() if re.fullmatch(LORA_PARTS[part], n)]
    assert names
    assert all(isinstance(model.get_submodule(n), torch.nn.Linear) for n in names)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 1}, "unknown key 'lr' in the configuration"),
        ({"trainer": {"lr": 1}}, "unknown key 'lr' in trainer"),
        ({"trainer": {"output_dir": "x"}}, "unknown key 'output_dir'"),
        ({"trainer": {"learning_rate": "fast"}}, "trainer.learning_rate must be a number"),
        ({"trainer": {"deepspeed": {"zero_optimization": {"stage": 3}}}}, "pieces that nothing"),
        ({"freeze": ["decoder"]}, "freeze must be a list of vision"),
        ({"freeze": ["vision"], "lora": {}}, "leave freeze out"),
        ({"lora": {"rank": 0}}, "lora.rank must be a positive"),
        ({"lora": {"parts": ["all"]}}, "lora.parts must be"),
        ({"lora": {"parts": [{}]}}, "lora.parts must be"),
        ({"lora": {"dropout": 1}}, "lora.dropout must be"),
        ({"eval_pages": True}, "eval_pages must be"),
        ({"model": "./runs/none"}, "model: there is no folder ./runs/none"),
        ({"lora": {"adapter": "/runs/none"}}, "lora.adapter: there is no folder /runs/none"),
        ({"max_length": "long"}, "max_length must be a number"),
        ({"output": None}, "output must be a path"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, words):
    with pytest.raises(SettingsError, match=words):
        settings_from({"data": "d", "output": "o", **changes})


def test_deepspeed_is_asked_for_by_name_where_it_is_missing(
    tmp_path, pages, tiny_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    trainer = {**TRAINER, "deepspeed": {"zero_optimization": {"stage": 2}}}
    assert run(tmp_path, pages, tiny_path, trainer=trainer) == 2
    assert "pip install deepspeed" in capsys.readouterr().err


def test_rates_may_be_written_as_people_write_them():
    values = yaml.safe_load("{data: d, output: o, trainer: {learning_rate: 2e-5}}")
    assert settings_from(values).trainer["learning_rate"] == 2e-5


def test_page_options_are_those_of_the_package():
    with pytest.raises(OptionError, match="mode must be one of"):
        settings_from({"data": "d", "output": "o", "page": {"mode": "huge"}})
    with pytest.raises(SettingsError, match="'data' is missing"):
        settings_from({"output": "o"})
