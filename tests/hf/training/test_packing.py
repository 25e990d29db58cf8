"""Several pages in one row: losses and gradients are those of a row for each."""

import copy
import json

import pytest
import torch
import yaml
from PIL import Image, ImageDraw

from vllm_dsocr.cli import main
from vllm_dsocr.hf.model.packing import sequence_ids
from vllm_dsocr.hf.training import (
    PackedDataset,
    PackedStream,
    PageCollator,
    PageDataset,
    PageStream,
    SettingsError,
    read_samples,
)
from vllm_dsocr.hf.training.data.packing import fill
from vllm_dsocr.hf.training.settings import settings_from

ROOM = 200
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pages with long and short answers, one with two exchanges, one without an image."""
    folder = tmp_path_factory.mktemp("packed")
    lines = []
    for number in range(5):
        image = Image.new("L", (60 + 20 * number, 50), "white")
        ImageDraw.Draw(image).text((5, 5), str(number), fill="black")
        image.save(folder / f"{number}.png")
        lines.append({"image": f"{number}.png", "answer": "word " * (3 * number + 1)})
    lines.append({"prompt": "Say something.", "answer": "no picture"})
    turns = [("user", "<image>\nFree OCR."), ("assistant", "a"), ("user", "Again."),
             ("assistant", "b c")]  # fmt: skip
    messages = [{"role": role, "content": content} for role, content in turns]
    lines.append({"messages": messages, "images": ["0.png"]})
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "data.jsonl"


@pytest.fixture
def pages(data, processor):
    return PageDataset(read_samples(data), processor)


def passed(model, batch, lean):
    model = copy.deepcopy(model).train()
    model.config.aux_loss_alpha = model.model.config.aux_loss_alpha = 1.0
    model.lean_loss = lean
    loss = model(**batch).loss
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_loss_and_gradients_are_those_of_pages_apart(attention, lean, model, processor, pages):
    """The router's balance loss, which weighs as much here, among them."""
    model = copy.deepcopy(model)
    model.set_attn_implementation(attention)
    padded = PageCollator(processor)([pages[index] for index in range(len(pages))])
    rows = PackedDataset(pages, ROOM)
    packed = PageCollator(processor)([rows[index] for index in range(len(rows))])
    assert packed["input_ids"].shape == (1, padded["attention_mask"].sum())
    loss, gradients = passed(model, padded, lean)
    other, others = passed(model, packed, lean)
    torch.testing.assert_close(other, loss, **CLOSE)
    torch.testing.assert_close(others, gradients, rtol=1e-3, atol=1e-5)


def test_several_packed_rows_are_told_apart():
    """Rows of a batch, as other collators make it, each with sequences of its own."""
    positions = torch.tensor([[0, 1, 2, 0, 1], [0, 0, 1, 2, 0]])
    assert sequence_ids(2, 5, positions, masked=False).tolist() == [
        [0] * 3 + [1] * 2,
        [2, 3, 3, 3, 4],
    ]
    assert sequence_ids(2, 5, positions, masked=True).tolist() == [[0] * 5, [1] * 5]
    assert sequence_ids(2, 3, torch.arange(3)[None], masked=False).tolist() == [[0] * 3, [1] * 3]


def test_rows_are_filled_and_none_is_lost():
    lengths = [90, 10, 50, 40, 130, 60, 30, 5]
    rows = fill(lengths, 100)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert [4] in rows  # longer than a row
    sums = sorted(sum(lengths[index] for index in row) for row in rows)
    assert sums == [85, 100, 100, 130]


def test_a_stream_is_packed_as_it_comes(data, processor):
    stream = PageStream(lambda: read_samples(data), processor)
    rows = list(PackedStream(stream, ROOM))
    apart = [item["input_ids"].tolist() for item in stream]
    assert [i for row in rows for i in row["input_ids"].tolist()] == [
        i for ids in apart for i in ids
    ]
    assert 1 < len(rows) < len(apart) and all(len(row["input_ids"]) <= ROOM for row in rows)


def logged(tmp_path, tiny_path, data, name, **changes):
    trainer = {"max_steps": 2, "save_steps": 2, "logging_steps": 1, "learning_rate": 1e-3,
               "per_device_train_batch_size": 9, "use_cpu": True, "disable_tqdm": True,
               "lr_scheduler_type": "constant", "eval_strategy": "steps",
               "eval_steps": 2}  # fmt: skip
    values = {"model": str(tiny_path), "data": str(data), "output": str(tmp_path / name),
              "eval_data": str(data), "eval_pages": 1, "page": {"mode": "tiny"},
              "trainer": trainer, **changes}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", str(tmp_path / "config.yaml")]) == 0
    state = json.loads((tmp_path / name / "checkpoint-2" / "trainer_state.json").read_text())
    return [line.get("loss", line.get("eval_loss")) for line in state["log_history"]]


def test_a_run_with_packing_has_the_losses_of_one_without(tmp_path, tiny_path, data):
    apart = logged(tmp_path, tiny_path, data, "apart")
    packed = logged(tmp_path, tiny_path, data, "packed", packing=ROOM)
    assert len(apart) == 3 and packed == pytest.approx(apart, rel=1e-5)


def test_a_row_has_room_for_something(tmp_path):
    with pytest.raises(SettingsError, match="packing"):
        settings_from({"data": "d", "output": str(tmp_path), "packing": 0})
