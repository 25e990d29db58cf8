"""forward: the official argument order, layouts of images that collators make, tied weights."""

import copy
import inspect

import pytest
import torch
from PIL import Image

from vllm_dsocr.hf import DeepseekOCRConfig, DeepseekOCRForCausalLM

# Of the official class, in its order.
OFFICIAL = (
    "input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds", "labels",
    "use_cache", "output_attentions", "output_hidden_states", "images", "images_seq_mask",
    "images_spatial_crop", "return_dict",
)  # fmt: skip
GUNDAM = {"mode": "gundam", "base_size": 256, "image_size": 128}


@pytest.fixture(scope="module")
def inputs(processor):
    noise = Image.effect_noise((300, 200), 60)
    return processor(["<image>\nFree OCR.", "a<image>"], [noise, noise.resize((60, 60))], **GUNDAM)


@pytest.fixture(scope="module")
def expected(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def logits(model, inputs, **changed):
    with torch.no_grad():
        return model(**{**inputs, **changed}).logits


def test_positional_arguments_are_the_official_ones(model, inputs, expected):
    names = tuple(inspect.signature(model.forward).parameters)
    assert names[: len(OFFICIAL)] == OFFICIAL
    with torch.no_grad():
        got = model(*[inputs.get(name) for name in OFFICIAL]).logits
    torch.testing.assert_close(got, expected)


def test_images_come_in_many_layouts(model, inputs, expected):
    (tiles, view), (_, small) = inputs["images"]
    crops = inputs["images_spatial_crop"]
    empty = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)  # what the official code puts there
    layouts = {
        "3-D global views": [(tiles, view[0]), (empty, small[0])],
        "lists for tuples": [[tiles, view], [empty, small]],
        "lists of tensors": [(list(tiles), [view[0]]), ([], [small[0]])],
        "one entry for all": [(tiles, torch.cat((view, small)))],
        "no tiles": [(tiles, view), (None, small)],
        "numpy": [(tiles.numpy(), view.numpy()), ([], small.numpy())],
    }
    for name, images in layouts.items():
        got = logits(model, inputs, images=images, images_spatial_crop=crops.tolist())
        torch.testing.assert_close(got, expected, msg=name)


def test_one_tensor_of_global_views(model, processor):
    pages = [Image.effect_noise((60, 60), 60), Image.effect_noise((70, 60), 60)]
    inputs = processor(["<image>a", "<image>b"], pages)
    views = torch.cat([view for _, view in inputs["images"]])
    for images in (views, list(views)):
        torch.testing.assert_close(logits(model, inputs, images=images), logits(model, inputs))


def test_the_official_text_only_inputs_mean_no_image(model, processor):
    inputs = processor("only text")
    zeros = torch.zeros(1, 3, 256, 256)
    none = {"images": [(zeros, zeros)], "images_spatial_crop": torch.zeros(1, 2, dtype=torch.long)}
    torch.testing.assert_close(logits(model, inputs, **none), logits(model, inputs))


def test_grids_that_do_not_fit_are_refused(model, inputs):
    crops = inputs["images_spatial_crop"]
    with pytest.raises(ValueError, match="1 rows for 2 images"):
        logits(model, inputs, images_spatial_crop=crops[:1])
    with pytest.raises(ValueError, match="tiles"):
        logits(model, inputs, images_spatial_crop=[[1, 2], [1, 1]])


def test_tuples_instead_of_dictionaries(model, inputs, expected):
    with torch.no_grad():
        by_argument = model(**inputs, labels=inputs["input_ids"], return_dict=False)
        plain = copy.deepcopy(model)
        plain.config.return_dict = False
        by_config = plain(**inputs)
    assert isinstance(by_argument, tuple) and by_argument[0].ndim == 0
    torch.testing.assert_close(by_argument[1], expected)
    torch.testing.assert_close(by_config[0], expected)


def test_states_and_attentions_of_every_layer(model, inputs):
    layers = model.config.num_hidden_layers
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    with torch.no_grad():
        out = eager(**inputs, output_hidden_states=True, output_attentions=True)
        base = model.model(inputs["input_ids"], return_dict=False)
    assert len(out.hidden_states) == layers + 1
    assert len(out.attentions) == layers
    assert isinstance(base, tuple)


def test_positions_count_from_where_they_are_said_to(model, inputs):
    """cache_position without position_ids; a cache of keys and values in two passes."""
    text = {"input_ids": inputs["input_ids"][1:, -4:]}
    whole = logits(model, text)
    positions = torch.arange(4)
    torch.testing.assert_close(logits(model, text, cache_position=positions), whole)
    torch.testing.assert_close(logits(model, text, position_ids=positions[None]), whole)
    with torch.no_grad():
        first = model(text["input_ids"][:, :2], use_cache=True)
        second = model(
            text["input_ids"][:, 2:],
            past_key_values=first.past_key_values,
            cache_position=positions[2:],
        )
    torch.testing.assert_close(second.logits, whole[:, 2:])


def test_tied_embeddings_are_one_tensor_and_stay_so(tiny_path, tmp_path):
    config = DeepseekOCRConfig.from_pretrained(tiny_path)
    config.tie_word_embeddings = True
    model = DeepseekOCRForCausalLM(config)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    model.save_pretrained(tmp_path)
    again, info = DeepseekOCRForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert not info["missing_keys"]


def test_a_checkpoint_without_position_ids_gets_them(model, tiny_path, tmp_path):
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("position_ids")}
    model.save_pretrained(tmp_path, state_dict=state)
    again = DeepseekOCRForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    got = again.model.vision_model.embeddings.position_ids
    assert torch.equal(got, torch.arange(got.shape[1])[None])


def test_the_router_is_no_linear_layer(model):
    gates = [m for name, m in model.named_modules() if name.endswith("mlp.gate")]
    assert gates and not any(isinstance(gate, torch.nn.Linear) for gate in gates)


def test_the_decoder_exports(model, inputs):
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = 2  # a dense layer and one with experts
    model = type(model)(config).eval()
    ids = inputs["input_ids"][1:, -6:]
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(
        model, (), {"input_ids": ids, "use_cache": False},
        dynamic_shapes={"input_ids": {1: length}, "use_cache": None}, strict=False,
    )  # fmt: skip
    shorter = ids[:, :4]
    got = program.module()(input_ids=shorter, use_cache=False)
    torch.testing.assert_close(got.logits, logits(model, {"input_ids": shorter}))
