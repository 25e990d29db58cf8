"""Logits, losses and greedy continuations of the transformers host against the official code."""

import itertools

import pytest
import torch

from tests.parity.loader import DATA, each_case, resolution, unrle
from vllm_dsocr.config import PAD_TOKEN
from vllm_dsocr.hf import DeepseekOCRForCausalLM, DeepseekOCRProcessor

SURE_MARGIN = 1e-3  # steps whose two best logits are closer do not count, nor what follows
LOGITS = {"rtol": 0, "atol": 1e-3}


@pytest.fixture(scope="module")
def model(checkpoint):
    return DeepseekOCRForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def processor(checkpoint):
    return DeepseekOCRProcessor.from_pretrained(checkpoint, resampler="pillow")


def inputs_of(data, processor, case):
    sizes = resolution(case["mode"])
    options = {name: getattr(sizes, name) for name in ("base_size", "image_size", "crop_mode")}
    return processor(case["prompt"], data.image(case["image"]), **options)


def with_answer(inputs, answer):
    """The same inputs with the answer's ids behind the prompt."""
    extra = torch.tensor([answer])
    ids = torch.cat((inputs["input_ids"], extra), dim=1)
    mask = torch.nn.functional.pad(inputs["images_seq_mask"], (0, extra.shape[1]))
    return {**inputs, "input_ids": ids, "images_seq_mask": mask, "attention_mask": None}


def sure_steps(run):
    """How many steps were decided by a clear margin, up to the first that was not."""
    margins = (logits[0] - logits[1] for logits in run["raw_top5_logits"])
    return sum(1 for _ in itertools.takewhile(lambda m: m >= SURE_MARGIN, margins))


def generate(model, processor, inputs, run):
    pad = processor.tokenizer.convert_tokens_to_ids(PAD_TOKEN)
    ids = model.generate(
        **inputs, do_sample=False, max_new_tokens=run["n"], pad_token_id=pad, **run["kwargs"]
    )
    return ids[:, inputs["input_ids"].shape[1] :].tolist()


def check_positions(logits, tensors, prefix):
    """Every position by log-sum-exp and the log probability of the next id, the last 8 in full."""
    torch.testing.assert_close(logits[-8:], tensors[f"{prefix}/logits_last8"], **LOGITS)
    torch.testing.assert_close(logits.logsumexp(-1), tensors[f"{prefix}/logsumexp"], **LOGITS)


@torch.no_grad()
@each_case("lm.json")
def test_ids_logits_and_losses(case, data, model, processor):
    tensors, name = data.tensors(case.document), case["case"]
    inputs = inputs_of(data, processor, case)
    assert inputs["input_ids"][0].tolist() == unrle(case["prompt_input_ids_rle"])
    check_positions(model(**inputs).logits[0], tensors, f"{name}/prompt")

    full = with_answer(inputs, case["answer_ids_with_eos"])
    ids, mask = full["input_ids"], full["images_seq_mask"]
    assert torch.equal(ids[0], tensors[f"{name}/full/input_ids"])
    assert torch.equal(mask[0], tensors[f"{name}/full/images_seq_mask"].bool())
    answer_only = ids.clone()
    answer_only[:, : case["prompt_len"]] = -100
    labels = {"all": ids, "no_image": ids.masked_fill(mask, -100), "answer_only": answer_only}
    for kind, wanted in case["losses"].items():
        out = model(**full, labels=labels[kind])
        assert out.loss.item() == pytest.approx(wanted, abs=1e-4), kind
    check_positions(out.logits[0], tensors, f"{name}/full")
    chosen = out.logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(chosen, tensors[f"{name}/full/next_token_logprob"], **LOGITS)


@torch.no_grad()
@each_case("lm.json")
def test_greedy_continuations(case, data, model, processor):
    inputs = inputs_of(data, processor, case)
    for run in case["generate"]:
        sure = sure_steps(run)
        assert generate(model, processor, inputs, run)[0][:sure] == run["ids"][:sure], run["name"]


@torch.no_grad()
def test_text_only(data, model, processor):
    document = data.document("lm.json")
    text = document["text_only"]
    inputs = processor(text["text"])
    assert inputs["input_ids"][0].tolist() == text["input_ids"]
    out = model(**inputs, labels=inputs["input_ids"])
    assert out.loss.item() == pytest.approx(text["loss"], abs=1e-4)
    torch.testing.assert_close(out.logits[0], data.tensors(document)["text_only/logits"], **LOGITS)
    for run in text["generate"]:
        sure = sure_steps(run)
        assert generate(model, processor, inputs, run)[0][:sure] == run["ids"][:sure]


@torch.no_grad()
def test_left_padded_batch(data, model, processor):
    document = data.document("lm.json")
    batch = document["batch2_left_padded"]
    cases = {case["case"]: case for case in DATA.cases("lm.json")}
    pair = [cases[name] for name in batch["cases"]]
    singles = [inputs_of(data, processor, case) for case in pair]
    inputs = join(singles, batch["pad_token_id"])
    assert (inputs["attention_mask"] == 0).sum(1).tolist() == batch["pad_counts"]
    first = model(**inputs).logits[:, -1]
    torch.testing.assert_close(first, data.tensors(document)["batch2/first_step_logits"], **LOGITS)
    for name, runs in itertools.groupby(batch["generate"], key=lambda run: run["name"]):
        runs = list(runs)
        reference = [
            next(r for r in cases[run["case"]]["generate"] if r["name"] == name) for run in runs
        ]
        texts = generate(model, processor, inputs, reference[0])
        for ids, run, single in zip(texts, runs, reference, strict=True):
            sure = sure_steps(single)
            assert ids[:sure] == run["ids"][:sure], (name, run["case"])


def join(singles, pad_token_id):
    """Single inputs of any modes as one left-padded batch."""
    length = max(one["input_ids"].shape[1] for one in singles)

    def padded(name, value):
        pad = torch.nn.functional.pad
        return torch.cat(
            [pad(one[name], (length - one[name].shape[1], 0), value=value) for one in singles]
        )

    return {
        "input_ids": padded("input_ids", pad_token_id),
        "attention_mask": padded("attention_mask", 0),
        "images_seq_mask": padded("images_seq_mask", False),
        "images": [image for one in singles for image in one["images"]],
        "images_spatial_crop": torch.cat([one["images_spatial_crop"] for one in singles]),
    }
