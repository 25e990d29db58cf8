"""Every way of generating reads the images: chunks, beams, assistants, caches, several turns."""

import copy

import pytest
import torch
from PIL import Image
from transformers import DynamicCache

PROMPTS = ["<image>\nFree OCR.", "Once upon a time, <image> and then <image>"]


def picture(seed=0, size=(90, 60)):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


@pytest.fixture(scope="module")
def inputs(processor):
    return processor(PROMPTS, [picture(0), picture(1, (40, 80)), picture(2)])


@pytest.fixture(scope="module")
def expected(model, inputs):
    return generate(model, inputs)


def generate(model, inputs, **kwargs):
    settings = {"do_sample": False, "max_new_tokens": 6, "pad_token_id": 2, **kwargs}
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.fixture
def encoded_views(model, monkeypatch):
    """How often the tower ran."""
    seen = []
    forward = model.model.sam_model.forward
    monkeypatch.setattr(
        model.model.sam_model, "forward", lambda x: (seen.append(len(x)), forward(x))[1]
    )
    return seen


@pytest.mark.parametrize("size", [7, 64, 1000])
def test_a_prompt_read_in_chunks_keeps_its_images(model, inputs, expected, size, encoded_views):
    assert generate(model, inputs, prefill_chunk_size=size) == expected
    assert sum(encoded_views) == 3  # once each


@pytest.mark.parametrize(
    "way",
    [
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"cache_implementation": "static", "prefill_chunk_size": 20},
        {"num_beams": 1, "num_return_sequences": 1},
        {"return_dict_in_generate": False, "output_scores": True},
    ],
    ids=str,
)
def test_the_way_of_caching_changes_nothing(model, inputs, expected, way):
    assert generate(model, inputs, **way) == expected


def test_speculation_changes_nothing(model, processor):
    one = processor(PROMPTS[1], [picture(1), picture(2)])
    plain = generate(model, one, max_new_tokens=10)
    assert generate(model, one, max_new_tokens=10, prompt_lookup_num_tokens=3) == plain
    assistant = copy.deepcopy(model)
    assert generate(model, one, max_new_tokens=10, assistant_model=assistant) == plain
    # One that sees something else proposes something else; what is accepted is the same.
    with torch.no_grad():
        assistant.model.image_newline.normal_()
        assistant.lm_head.weight.mul_(-1)
    assert generate(model, one, max_new_tokens=10, assistant_model=assistant) == plain


def score(model, processor, prompt, images, answer):
    """Log probability of an answer (list of ids), by one plain pass over prompt and answer."""
    inputs = processor(prompt, images)
    prompt_ids = inputs["input_ids"]
    ids = torch.cat((prompt_ids, torch.tensor([answer])), dim=1)
    mask = torch.nn.functional.pad(inputs["images_seq_mask"], (0, len(answer)))
    vision = {k: inputs[k] for k in ("images", "images_spatial_crop")}
    with torch.no_grad():
        logits = model(input_ids=ids, images_seq_mask=mask, **vision).logits[0].log_softmax(-1)
    first = prompt_ids.shape[1] - 1
    return sum(logits[first + i, token].item() for i, token in enumerate(answer))


def test_beams_score_what_they_saw(model, processor, inputs):
    """The score of a beam is that of a plain pass with the same images."""
    out = model.generate(
        **inputs, do_sample=False, max_new_tokens=4, min_new_tokens=4, pad_token_id=2,
        num_beams=3, num_return_sequences=2, return_dict_in_generate=True, output_scores=True,
        length_penalty=0.0,
    )  # fmt: skip
    answers = out.sequences[:, inputs["input_ids"].shape[1] :].tolist()
    images = [[picture(0)], [picture(1, (40, 80)), picture(2)]]
    for row, answer in enumerate(answers):
        by_hand = score(model, processor, PROMPTS[row // 2], images[row // 2], answer)
        assert out.sequences_scores[row].item() == pytest.approx(by_hand, abs=1e-3)


def test_chunks_and_beams_go_together(model, inputs):
    beams = {"num_beams": 3, "num_return_sequences": 2}
    assert generate(model, inputs, **beams, prefill_chunk_size=20) == generate(
        model, inputs, **beams
    )


def test_several_answers_per_prompt_come_from_its_own_images(model, inputs, expected):
    answers = generate(model, inputs, do_sample=True, top_k=1, num_return_sequences=2)
    assert answers == [row for row in expected for _ in range(2)]


def test_turns_over_one_cache_equal_one_prompt(model, processor, encoded_views):
    """The second turn passed whole, and as its new part alone."""
    first, second = picture(0), picture(1)
    start = processor("<image>\nFree OCR.", first)
    cache = DynamicCache(config=model.config)
    turn = model.generate(
        **start, past_key_values=cache, do_sample=False, max_new_tokens=4, pad_token_id=2,
        return_dict_in_generate=True,
    )  # fmt: skip
    new = processor("<image>\nAgain.", second)
    vision = {key: new[key] for key in ("images", "images_spatial_crop")}
    new_ids, new_mask = new["input_ids"][:, 1:], new["images_seq_mask"][:, 1:]
    ids = torch.cat((turn.sequences, new_ids), dim=1)
    answer = turn.sequences.shape[1] - start["input_ids"].shape[1]
    old_mask = torch.nn.functional.pad(start["images_seq_mask"], (0, answer))
    whole = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "images_seq_mask": torch.cat((old_mask, new_mask), dim=1),
        "images": [*start["images"], *new["images"]],
        "images_spatial_crop": torch.cat(
            (start["images_spatial_crop"], new["images_spatial_crop"])
        ),
    }
    del encoded_views[:]
    fresh = generate(model, whole)
    assert sum(encoded_views) == 2
    assert generate(model, {**whole, "past_key_values": copy.deepcopy(cache)}) == fresh
    # Images of earlier turns need not be passed again.
    mask = whole["images_seq_mask"].clone()
    mask[:, : turn.sequences.shape[1]] = False
    later = {**whole, **vision, "images_seq_mask": mask, "past_key_values": copy.deepcopy(cache)}
    assert generate(model, later) == fresh
    # Nor are earlier images encoded again where no new one came.
    text = processor("Go on.")["input_ids"][:, 1:]
    longer = torch.cat((turn.sequences, text), dim=1)
    mask = torch.nn.functional.pad(old_mask, (0, text.shape[1]))
    again = {**start, "input_ids": longer, "attention_mask": torch.ones_like(longer)}
    again["images_seq_mask"] = mask
    by_hand = generate(model, again)
    del encoded_views[:]
    assert generate(model, {**again, "past_key_values": copy.deepcopy(cache)}) == by_hand
    assert not encoded_views


def test_embeddings_instead_of_ids(model, inputs, expected):
    """As inputs_embeds with the images in it, and with the images beside it."""
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    ids = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    beside = {k: v for k, v in inputs.items() if k != "input_ids"}
    assert model.generate(inputs_embeds=embeddings, **beside, **ids).tolist() == expected
    placed = model.model.place_images(
        inputs["images"], inputs["images_seq_mask"], inputs["images_spatial_crop"]
    )
    merged = torch.where(inputs["images_seq_mask"][..., None], placed, embeddings)
    mask = {"attention_mask": inputs["attention_mask"]}
    assert model.generate(inputs_embeds=merged, **mask, **ids).tolist() == expected


def test_a_misspelt_argument_is_refused(model, inputs):
    with pytest.raises(ValueError, match="imagess"):
        generate(model, inputs, imagess=[])


def test_images_without_places_are_refused(model, inputs):
    with pytest.raises(ValueError, match="marks 0 positions"):
        generate(model, {k: v for k, v in inputs.items() if k != "images_seq_mask"})
