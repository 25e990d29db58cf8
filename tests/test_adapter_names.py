"""Adapters of several makers: what vLLM will make of them, held against vLLM's own parser."""

import json

import pytest
import torch
from safetensors.torch import save_file

from vllm_dsocr.adapter_names import AdapterError, check_adapter, split_name, vllm_name
from vllm_dsocr.cli import main

LAYER = "model.layers.3.self_attn.q_proj"
EXPERT = "model.layers.3.mlp.experts.7.down_proj"
SERVED = [f"base_model.model.{LAYER}.lora_A.weight", f"base_model.model.{EXPERT}.lora_B.weight"]


def adapter(path, *names, **config):
    path.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": 16, "lora_alpha": 16, "target_modules": "x"} | config
    (path / "adapter_config.json").write_text(json.dumps(config))
    tensors = {name: torch.zeros(2) for name in names or SERVED}
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
    return path


@pytest.mark.parametrize(
    "name",
    [
        f"base_model.model.{LAYER}.lora_A.weight",
        f"base_model.model.{LAYER}.lora_A.default.weight",
        f"base_model.model.base_model.model.{LAYER}.lora_A.weight",
        f"{LAYER}.lora_A.weight",
        f"base_model.model.{LAYER.replace('model.', 'model.language_model.')}.lora_A.weight",
        f"base_model.model.language_model.{LAYER}.lora_A.weight",
    ],
)
def test_many_names_mean_one_module(name):
    assert split_name(name) == (LAYER, "lora_A.weight")


@pytest.mark.parametrize("name", SERVED)
def test_served_names_go_where_vllm_puts_them(name):
    pytest.importorskip("vllm")
    from vllm.lora.utils import parse_fine_tuned_lora_name

    from vllm_dsocr.plugin.model import DeepseekOCRForCausalLM

    mapper = DeepseekOCRForCausalLM.hf_to_vllm_mapper
    assert parse_fine_tuned_lora_name(name, mapper)[0] == vllm_name(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("base_model.model.model.sam_model.blocks.0.attn.qkv.lora_A.weight", "vision part"),
        ("base_model.model.model.projector.layers.lora_A.weight", "vision part"),
        ("base_model.model.lm_head.lora_A.weight", "no adapters there"),
        (f"base_model.model.language_model.{LAYER}.lora_A.weight", "other prefixes"),
        (f"base_model.model.{LAYER}.lora_A.default.weight", "other prefixes"),
        ("base_model.model.lm_head.weight", "no adapters there"),
    ],
)
def test_what_vllm_would_refuse_or_pass_over_is_said(tmp_path, name, words):
    (problem,) = check_adapter(adapter(tmp_path, name)).problems
    assert words in problem


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"bias": "all"}, "biases"),
        ({"modules_to_save": ["lm_head"]}, "whole modules: lm_head"),
        ({"peft_type": "IA3"}, "this is IA3"),
        ({"r": 1024}, "rank 1024"),
    ],
)
def test_kinds_vllm_does_not_load(tmp_path, config, words):
    (problem,) = check_adapter(adapter(tmp_path, **config)).problems
    assert words in problem


def test_a_report_counts_and_hints(tmp_path):
    report = check_adapter(adapter(tmp_path, r=8, rank_pattern={"q_proj": 48}))
    assert {goal: count for _, goal, count in report.modules} == {
        "language_model.model.layers.N.self_attn.q_proj": 1,
        "language_model.model.layers.N.mlp.experts.N.down_proj": 1,
    }
    assert (report.problems, report.hints) == ((), ("--max-lora-rank 64",))


def test_the_command(tmp_path, capsys):
    assert main(["lora", "check", str(adapter(tmp_path / "good"))]) == 0
    assert "vLLM loads it: vllm serve BASE --enable-lora" in capsys.readouterr().out
    assert main(["lora", "check", str(adapter(tmp_path / "bad", use_dora=True))]) == 1
    assert "dsocr lora merge" in capsys.readouterr().out
    assert main(["lora", "check", str(tmp_path)]) == 2
    assert "cannot read" in capsys.readouterr().err


def test_folders_without_an_adapter_are_refused(tmp_path):
    folder = adapter(tmp_path)
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 20)
    with pytest.raises(AdapterError, match="cannot read"):
        check_adapter(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError, match="states no rank"):
        check_adapter(folder)
