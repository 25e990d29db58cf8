"""The transformers host: files, batches, cache, gradients, refusals."""

import copy
import json

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM
from vllm_dsocr.hf.model.balance import Balance
from vllm_dsocr.hf.model.moe import MoE

PROMPT = "<image>\nFree OCR."


def picture(seed=0, size=(90, 60)):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def generate(model, inputs, **kwargs):
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=8, pad_token_id=2, **kwargs)
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def names_and_shapes(path):
    with safe_open(path / "model.safetensors", framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def test_saving_keeps_names_layout_and_outputs(model, processor, tiny_path, tmp_path):
    model.save_pretrained(tmp_path)
    assert names_and_shapes(tmp_path) == names_and_shapes(tiny_path)
    official = json.loads((tiny_path / "config.json").read_text())
    saved = json.loads((tmp_path / "config.json").read_text())
    for part in ("language_config", "vision_config", "projector_config"):
        assert {k: saved[part].get(k) for k in official[part] if k != "torch_dtype"} == {
            k: v for k, v in official[part].items() if k != "torch_dtype"
        }
    again = DeepseekOCRForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    inputs = processor(PROMPT, picture())
    with torch.no_grad():
        torch.testing.assert_close(model(**inputs).logits, again(**inputs).logits)


def test_changed_sizes_reach_the_language_config(model):
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 2
    assert config.to_dict()["language_config"]["num_hidden_layers"] == 2


def test_a_config_without_sizes_is_the_published_one():
    config = DeepseekOCRConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.n_routed_experts) == (1280, 12, 64)
    assert config.vision_sizes.sam.width == 768
    assert config.to_dict()["language_config"]["use_mla"] is False


def test_other_decoders_are_refused():
    with pytest.raises(ValueError, match="use_mla"):
        DeepseekOCRConfig(use_mla=True)


def test_left_padded_batch_equals_single_runs(model, processor):
    prompts = [PROMPT, "Once upon a time, <image> and then <image>", "only text"]
    pictures = [picture(0), picture(1, (40, 80)), picture(2)]
    batch = processor(prompts, pictures)
    assert batch["attention_mask"][0, 0] == 0
    together = generate(model, batch)
    alone = [
        generate(model, processor(prompts[0], pictures[:1]))[0],
        generate(model, processor(prompts[1], pictures[1:]))[0],
        generate(model, processor(prompts[2]))[0],
    ]
    assert together == alone


def test_cache_changes_nothing(model, processor):
    inputs = processor(PROMPT, picture())
    assert generate(model, inputs) == generate(model, inputs, use_cache=False)


def test_tiles_of_many_sizes_share_a_batch(model, processor):
    pages = [picture(0, (700, 300)), picture(1, (60, 60))]
    gundam = {"mode": "gundam", "base_size": 256, "image_size": 128}
    batch = processor([PROMPT, PROMPT], pages, **gundam)
    alone = [generate(model, processor(PROMPT, page, **gundam))[0] for page in pages]
    assert generate(model, batch) == alone


def test_counts_that_differ_are_refused(model, processor):
    inputs = processor(PROMPT, picture())
    inputs["images_seq_mask"][0, 5] = False
    with pytest.raises(ValueError, match="marks 72 positions, the images give 73"):
        model(**inputs)
    with pytest.raises(ValueError, match="one row"):
        model(**{**inputs, "images_spatial_crop": None})


def test_gradients_reach_vision_unless_frozen(model, processor):
    trained = copy.deepcopy(model).train()
    inputs = processor(PROMPT, picture())
    trained(**inputs, labels=inputs["input_ids"]).loss.backward()
    silent = {
        name for name, p in trained.named_parameters() if p.grad is None or not p.grad.abs().any()
    }
    assert silent - {n for n in silent if ".experts." in n} == {
        "model.vision_model.embeddings.patch_embedding.weight"
    }
    frozen = copy.deepcopy(model).train()
    frozen.model.sam_model.requires_grad_(False)
    frozen(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(p.grad is None for p in frozen.model.sam_model.parameters())
    assert frozen.model.projector.layers.weight.grad is not None


def test_ignored_labels_do_not_count(model, processor):
    inputs = processor("a b c d e f")
    labels = inputs["input_ids"].clone()
    labels[:, :4] = -100
    with torch.no_grad():
        out = model(**inputs, labels=labels)
    expected = torch.nn.functional.cross_entropy(out.logits[0, 3:-1], inputs["input_ids"][0, 4:])
    torch.testing.assert_close(out.loss, expected)
    assert out.logits.dtype == torch.float32


def test_gradient_checkpointing_gives_the_same_gradients(model, processor):
    inputs = processor(PROMPT, picture())
    grads = []
    for checkpointing in (False, True):
        trained = copy.deepcopy(model).train()
        if checkpointing:
            trained.gradient_checkpointing_enable()
        trained(**inputs, labels=inputs["input_ids"]).loss.backward()
        grads.append(trained.model.sam_model.pos_embed.grad)
    torch.testing.assert_close(*grads)


def moe(experts, chosen, seed=0):
    torch.manual_seed(seed)
    config = DeepseekOCRConfig(
        hidden_size=16, moe_intermediate_size=8, n_routed_experts=experts,
        num_experts_per_tok=chosen, n_shared_experts=1, num_attention_heads=2,
    )  # fmt: skip
    return MoE(config)


def test_both_ways_of_mixing_experts_agree():
    layer = moe(experts=6, chosen=2)
    x = torch.randn(3, 5, 16)
    _, weights, chosen = layer.gate(x)
    flat = x.flatten(0, 1)
    torch.testing.assert_close(
        layer._mix_sorted(flat, weights, chosen), layer._mix_all(flat, weights, chosen)
    )


def test_balance_loss_is_lowest_for_even_load_and_trains_the_router_only():
    layer = moe(experts=4, chosen=1).train()
    one = Balance(torch.zeros(1, 4, dtype=torch.long), None, None)
    even = torch.full((1, 4, 4), 0.25)
    uneven = torch.tensor([0.97, 0.01, 0.01, 0.01]).expand(1, 4, 4)
    loss_even = layer._balance_loss(even, torch.arange(4)[:, None], one)
    loss_uneven = layer._balance_loss(uneven, torch.zeros(4, 1, dtype=torch.long), one)
    torch.testing.assert_close(loss_even, torch.tensor(layer.config.aux_loss_alpha))
    assert loss_uneven > 3 * loss_even
    x = torch.randn(1, 4, 16)
    layer.balance = one
    value = layer(x)
    assert torch.equal(value, layer.eval()(x))  # the loss does not show in the output
    one.tap((value * 0).sum()).backward()
    assert layer.gate.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("seq_aux", [True, False])
def test_balance_loss_is_as_defined(seq_aux):
    """The sum over experts of (share of choices) x (mean score), counted choice by choice."""
    layer = moe(experts=6, chosen=2)
    layer.config.seq_aux = seq_aux
    scores, _, chosen = layer.gate(torch.randn(3, 5, 16))
    groups = scores if seq_aux else scores.reshape(1, 15, 6)
    choices = chosen.view(groups.shape[0], -1).tolist()
    losses = [
        sum(
            6 * row.count(expert) / len(row) * group[:, expert].mean().item() for expert in range(6)
        )
        for group, row in zip(groups, choices, strict=True)
    ]
    expected = layer.config.aux_loss_alpha * sum(losses) / len(losses)
    alike = Balance(torch.zeros(3, 5, dtype=torch.long), None, None)
    loss = layer._balance_loss(scores, chosen, alike)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
