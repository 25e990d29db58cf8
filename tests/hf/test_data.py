"""Files become training batches: ids and pixels of serving, the answer alone is learned."""

import json

import pytest
import torch
from PIL import Image

from vllm_dsocr.config import EOS_TOKEN, IGNORE_INDEX
from vllm_dsocr.hf.data import DataError, PageCollator, PageDataset, read_samples, upright_size
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.source import open_image

PROMPT = "<image>\nFree OCR."


@pytest.fixture
def folder(tiny_path, tmp_path):
    """Two pages with texts, one without, and a JSONL file that names all kinds of samples."""
    for name, size in (("a.png", (90, 60)), ("b.jpg", (40, 80)), ("c.png", (20, 20))):
        Image.effect_noise(size, 60).save(tmp_path / name)
    (tmp_path / "a.md").write_text("# Title\n\ntext\n")
    (tmp_path / "a.txt").write_text("not this one")
    (tmp_path / "b.txt").write_text("plain")
    lines = [
        {"image": "a.png", "answer": "one"},
        {"image": ["a.png", "b.jpg"], "prompt": "<image>and<image>", "answer": "two\n"},
        {"prompt": "no picture", "answer": "three"},
    ]
    (tmp_path / "data.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    return tmp_path


def batch_of(samples, processor):
    dataset = PageDataset(samples, processor)
    return PageCollator(processor)([dataset[i] for i in range(len(dataset))])


def test_a_folder_pairs_images_with_texts(folder):
    samples = read_samples(folder, PROMPT)
    assert [(s.images[0].name, s.answer) for s in samples] == [
        ("a.png", "# Title\n\ntext"),
        ("b.jpg", "plain"),
    ]


def test_ids_and_pixels_are_those_of_serving(folder, processor):
    samples = read_samples(folder / "data.jsonl", PROMPT)
    batch = batch_of(samples, processor)
    images = [open_image(path) for sample in samples for path in sample.images]
    served = processor([sample.prompt for sample in samples], images)
    eos = processor.tokenizer.convert_tokens_to_ids(EOS_TOKEN)
    for row, sample in enumerate(samples):
        prompt = served["input_ids"][row][served["attention_mask"][row].bool()].tolist()
        answer = [*processor.tokenizer.encode(sample.answer, add_special_tokens=False), eos]
        real = batch["attention_mask"][row].bool()
        assert batch["input_ids"][row][real].tolist() == prompt + answer
        assert batch["labels"][row][real].tolist() == [IGNORE_INDEX] * len(prompt) + answer
        assert (batch["labels"][row][~real] == IGNORE_INDEX).all()
    assert batch["images_seq_mask"].sum(1).tolist() == served["images_seq_mask"].sum(1).tolist()
    assert torch.equal(batch["images_spatial_crop"], served["images_spatial_crop"])
    for (tiles, view), (served_tiles, served_view) in zip(
        batch["images"], served["images"], strict=True
    ):
        assert torch.equal(tiles, served_tiles) and torch.equal(view, served_view)


def test_vllm_sees_the_same(folder, processor, tiny_path):
    pytest.importorskip("vllm")
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    from tests.plugin.engines import register

    register()
    options = {"mode": "tiny"}
    config = ModelConfig(str(tiny_path), max_model_len=4096, mm_processor_kwargs=options)
    vllm = MULTIMODAL_REGISTRY.create_processor(config)
    (sample,) = read_samples(folder / "data.jsonl", PROMPT)[:1]
    image = Image.open(sample.images[0])
    served = vllm(sample.prompt, vllm.info.parse_mm_data({"image": [image]}))
    batch = batch_of([sample], processor)
    ids = batch["input_ids"][batch["labels"] == IGNORE_INDEX].tolist()
    assert ids == list(served["prompt_token_ids"])
    view = served["mm_kwargs"]["image"][0].get_data()["global_view"]
    assert torch.equal(batch["images"][0][1][0], view)


def test_a_tag_in_an_answer_is_no_image(folder, processor):
    line = {"image": "a.png", "answer": "<image> is a tag"}
    (folder / "tag.jsonl").write_text(json.dumps(line))
    batch = batch_of(read_samples(folder / "tag.jsonl", PROMPT), processor)
    tags = (batch["input_ids"] == processor.image_token_id).sum()
    assert batch["images_seq_mask"].sum() == tags - 1


def test_long_samples_are_left_out_and_listed(folder, processor):
    samples = read_samples(folder / "data.jsonl", PROMPT)
    lengths = [len(item["input_ids"]) for item in PageDataset(samples, processor)]
    dataset = PageDataset(samples, processor, max_length=sorted(lengths)[1])
    assert len(dataset) == 2
    assert dataset.too_long == [samples[lengths.index(max(lengths))]]


@pytest.mark.parametrize(("name", "orientation"), [("x.png", 1), ("x.jpg", 6), ("x.tif", 6)])
def test_the_size_in_the_header_is_that_of_the_page(tmp_path, processor, name, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (90, 60)).save(tmp_path / name, exif=exif)
    page = page_tensors(open_image(tmp_path / name), processor.options)
    assert upright_size(tmp_path / name) == page.plan.size


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 1"),
        ('{"image": "a.png"}', "at least an 'answer'"),
        ('{"image": "a.png", "answer": "x", "text": "y"}', "unknown key 'text'"),
        ('{"image": 3, "answer": "x"}', "'image' is a path"),
    ],
)
def test_lines_that_cannot_be_are_named(tmp_path, line, words):
    (tmp_path / "bad.jsonl").write_text(line)
    with pytest.raises(DataError, match=words):
        read_samples(tmp_path / "bad.jsonl")


def test_missing_and_damaged_images_are_named(folder, processor):
    (folder / "bad.jsonl").write_text('{"image": "none.png", "answer": "x"}')
    with pytest.raises(DataError, match=r"none\.png"):
        PageDataset(read_samples(folder / "bad.jsonl", PROMPT), processor)
    with pytest.raises(DataError, match="1 <image> tags for 0 images"):
        (folder / "bad.jsonl").write_text('{"answer": "x"}')
        PageDataset(read_samples(folder / "bad.jsonl", PROMPT), processor)
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.jpg: the image is damaged"):
        batch_of(read_samples(folder, PROMPT), processor)
