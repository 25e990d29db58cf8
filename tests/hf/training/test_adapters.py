"""Adapters by every option: what learns, what is saved, and that it is what was trained."""

import json

import pytest
import torch
from safetensors.torch import load_file

from vllm_dsocr.cli import main
from vllm_dsocr.hf import DeepseekOCRForCausalLM
from vllm_dsocr.hf.training import PageCollator, PageDataset, Sample, make_trainer
from vllm_dsocr.hf.training.lora import load_with_adapter
from vllm_dsocr.hf.training.run import prepare_model
from vllm_dsocr.hf.training.settings import SettingsError, settings_from

LINES = [{"prompt": "Say abc.", "answer": "abc " * count} for count in (1, 2, 3)]
TRAINER = {"max_steps": 2, "save_steps": 1, "learning_rate": 0.05, "use_cpu": True,
           "disable_tqdm": True, "per_device_train_batch_size": 2, "seed": 1,
           "save_only_model": True, "logging_steps": 1}  # fmt: skip


def settings(tmp_path, tiny_path, **changes):
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    values = {"model": str(tiny_path), "data": str(tmp_path / "data.jsonl"),
              "output": str(tmp_path / "out"), "page": {"mode": "tiny"}}  # fmt: skip
    return settings_from({**values, "trainer": TRAINER, **changes})


@pytest.fixture
def batch(processor):
    dataset = PageDataset([Sample((), "Say abc.", "abc")], processor)
    return PageCollator(processor)([dataset[0]])


def logits(model, batch):
    with torch.no_grad():
        return model.eval()(**{**batch, "labels": None}).logits


CASES = {
    "rslora": {"rslora": True, "rank": 4},
    "dora": {"dora": True, "rank": 4},
    "pattern": {"target_modules": r"model\.layers\.0\.self_attn\.\w_proj"},
    "whole": {"modules_to_save": ["lm_head"]},
    "bf16": {"base": "bfloat16"},
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_saved_is_what_was_trained_and_merges_in_mid_run(
    case, tmp_path, tiny_path, processor, batch
):
    lora = CASES[case]
    trainer = make_trainer(settings(tmp_path, tiny_path, lora=lora), processor)
    trainer.train()
    learned = {n for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert learned and all("lora_" in n or "modules_to_save" in n for n in learned)
    assert any("modules_to_save" in n for n in learned) == (case == "whole")
    if case == "pattern":
        assert all(".layers.0.self_attn." in n for n in learned)
    if case == "bf16":
        dtypes = {p.dtype for n, p in trainer.model.named_parameters() if "lora_" not in n}
        assert dtypes == {torch.bfloat16}
        assert {p.dtype for n, p in trainer.model.named_parameters() if n in learned} == {
            torch.float32
        }
    trained = logits(trainer.model.float(), batch)
    folder = tmp_path / "out" / "checkpoint-2"
    again = logits(load_with_adapter(folder, str(tiny_path)).float(), batch)
    plain = logits(DeepseekOCRForCausalLM.from_pretrained(tiny_path, dtype=torch.float32), batch)
    if case == "whole":  # loaded in the base's bf16
        assert (again - trained).norm() < 0.1 * (plain - trained).norm()
    else:
        torch.testing.assert_close(again, trained, rtol=1e-3, atol=1e-3)
    if case == "rslora":
        assert main(["lora", "check", str(folder)]) == 0
    assert main(["lora", "merge", str(folder), str(tmp_path / "merged")]) == 0
    merged = DeepseekOCRForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    difference = (logits(merged, batch) - trained).norm()
    assert difference < 0.3 * (plain - trained).norm()  # merged weights are bf16


def test_an_adapter_is_gone_on_from(tmp_path, tiny_path, processor, batch):
    first = make_trainer(settings(tmp_path, tiny_path, lora={"rank": 4}), processor)
    first.train()
    first.save_model()
    lora = {"adapter": str(tmp_path / "out")}
    second = prepare_model(settings(tmp_path, tiny_path, lora=lora), checkpointing=False)
    torch.testing.assert_close(logits(second, batch), logits(first.model, batch))
    learning = {n for n, p in second.named_parameters() if p.requires_grad}
    assert learning == {n for n, p in first.model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "v_proj"]])
def test_adapters_go_where_they_are_told(target, tmp_path, tiny_path):
    """The router is no linear map; tests/hf/test_loading.py has what `all-linear` adapts."""
    lora = {"target_modules": target, "rank": 2}
    model = prepare_model(settings(tmp_path, tiny_path, lora=lora), checkpointing=False)
    adapted = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    assert adapted and not any(name.endswith(".gate") for name in adapted)
    named = {name.rpartition(".")[2] for name in adapted}
    assert named == set(target) if isinstance(target, list) else named > {"q_proj", "up_proj"}


def test_a_base_in_four_bits_learns(tmp_path, tiny_path, processor, batch):
    pytest.importorskip("bitsandbytes")
    lora = {"base": "4bit", "rank": 8, "parts": ["language", "experts"]}
    trainer = make_trainer(
        settings(tmp_path, tiny_path, lora=lora, trainer={**TRAINER, "max_steps": 6}), processor
    )
    kinds = {type(m).__name__ for m in trainer.model.modules()}
    assert "Linear4bit" in kinds
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert losses[-1] < 0.8 * losses[0]
    trained = logits(trainer.model, batch)
    plain = DeepseekOCRForCausalLM.from_pretrained(tiny_path, dtype=torch.float32)
    served = logits(load_with_adapter(tmp_path / "out/checkpoint-6", str(tiny_path)).float(), batch)
    assert (served - trained).norm() < 0.5 * (logits(plain, batch) - trained).norm()


def test_parts_have_rates_of_their_own(tmp_path, tiny_path, processor):
    """Plain gradient descent: what a parameter moves by is its rate times its gradient."""
    rates = {"projector": 0.5, "language": 0.001}
    trainer = {**TRAINER, "optim": "sgd", "learning_rate": 0.25, "max_grad_norm": 0.0,
               "lr_scheduler_type": "constant", "weight_decay": 0.1}  # fmt: skip
    made = make_trainer(settings(tmp_path, tiny_path, rates=rates, trainer=trainer), processor)
    made.create_optimizer_and_scheduler(1)
    own = {id(p): g["lr"] for g in made.optimizer.param_groups for p in g["params"]}
    named = {n: own[id(p)] for n, p in made.model.named_parameters() if p.requires_grad}
    assert len(named) == len(own)
    assert named["model.projector.layers.weight"] == named["model.image_newline"] == 0.5
    assert named["model.sam_model.pos_embed"] == 0.25
    assert named["lm_head.weight"] == named["model.layers.0.self_attn.q_proj.weight"] == 0.001


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"base": "8bit"}, "lora.base must be one of float32"),
        ({"dora": "yes"}, "lora.dora must be true or false"),
        ({"target_modules": 3}, "names or a pattern"),
        ({"target_modules": "all-linear", "parts": ["language"]}, "leave parts out"),
        ({"modules_to_save": "lm_head"}, "a list of names"),
        ({"adapter": 1}, "lora.adapter must be a path"),
    ],
)
def test_options_that_cannot_be_are_named(lora, words):
    with pytest.raises(SettingsError, match=words):
        settings_from({"data": "d", "output": "o", "lora": lora})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rates": {"towers": 1}}, "unknown key 'towers' in rates"),
        ({"rates": {"vision": "fast"}}, "rates.vision must be a number above 0"),
        ({"stream": True}, "set trainer.max_steps"),
        ({"early_stopping": "soon"}, "early_stopping must be"),
    ],
)
def test_settings_that_cannot_be_are_named(changes, words):
    with pytest.raises(SettingsError, match=words):
        settings_from({"data": "d", "output": "o", **changes})


def test_a_stream_is_trained_on_and_a_mid_run_checkpoint_is_whole(tmp_path, tiny_path, processor):
    trainer = {**TRAINER, "learning_rate": 1e-3}
    made = make_trainer(settings(tmp_path, tiny_path, stream=True, trainer=trainer), processor)
    made.train()
    folder = tmp_path / "out" / "checkpoint-1"
    names = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
             "tokenizer_config.json", "processor_config.json"}  # fmt: skip
    assert names <= {path.name for path in folder.iterdir()}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    origin = load_file(tiny_path / "model.safetensors")
    saved = load_file(folder / "model.safetensors")
    assert {n: t.dtype for n, t in saved.items()} == {n: t.dtype for n, t in origin.items()}
    master = load_file(folder / "master" / "model.safetensors")
    assert torch.equal(master["lm_head.weight"].bfloat16(), saved["lm_head.weight"])
