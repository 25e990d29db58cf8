"""Files become training batches: ids and pixels of serving, the answer alone is learned."""

import base64
import io
import json
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from vllm_dsocr.config import EOS_TOKEN, IGNORE_INDEX
from vllm_dsocr.hf import DeepseekOCRProcessor
from vllm_dsocr.hf.training import (
    DataError,
    PageCollator,
    PageDataset,
    PageStream,
    Sample,
    read_samples,
)
from vllm_dsocr.hf.training.check import check
from vllm_dsocr.hf.training.data.samples import sample_from
from vllm_dsocr.hf.training.data.sizes import upright_size
from vllm_dsocr.hf.training.run import open_data
from vllm_dsocr.hf.training.settings import settings_from
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.source import open_image

PROMPT = "<image>\nFree OCR."


@pytest.fixture
def folder(tiny_path, tmp_path):
    """Two pages with texts, one without, and a JSONL file that names all kinds of samples."""
    for name, size in (("a.png", (90, 60)), ("b.jpg", (40, 80)), ("c.png", (20, 20))):
        Image.effect_noise(size, 60).save(tmp_path / name)
    (tmp_path / "a.md").write_text("# Title\n\ntext\n", encoding="utf-8-sig")
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


@pytest.mark.parametrize("alpha", ["white", "drop"])
def test_transparency_is_that_of_serving(alpha, tiny_path, tmp_path):
    """Black ink under a page that is transparent here and there."""
    image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (10, 10, 30, 30))
    image.save(tmp_path / "page.png")
    processor = DeepseekOCRProcessor.from_pretrained(tiny_path, mode="tiny", alpha=alpha)
    sample = Sample((tmp_path / "page.png",), PROMPT, "x")
    (_, view), *_ = batch_of([sample], processor)["images"]
    ((_, served),) = processor(PROMPT, tmp_path / "page.png")["images"]
    assert torch.equal(view, served)
    assert (view.min() == view.max()) == (alpha == "drop")  # all black, or ink on paper


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
        ("{", "line 1: not JSON: Expecting property name.* at character 2"),
        ('{"image": "a.png", "text": "x"}', "at least an 'answer'.* of this one: image, text"),
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
    with pytest.raises(DataError, match=r"cannot open .*none\.png: No such file or directory$"):
        PageDataset(read_samples(folder / "bad.jsonl", PROMPT), processor)
    (folder / "bad.jsonl").write_text('{"image": "a.md", "answer": "x"}')
    with pytest.raises(DataError, match=r"a\.md: not an image that can be read$"):
        PageDataset(read_samples(folder / "bad.jsonl", PROMPT), processor)
    with pytest.raises(DataError, match="1 <image> tags for 0 images"):
        (folder / "bad.jsonl").write_text('{"answer": "x"}')
        PageDataset(read_samples(folder / "bad.jsonl", PROMPT), processor)
    whole = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.jpg: the image is damaged"):
        batch_of(read_samples(folder, PROMPT), processor)


def png_bytes(size=(90, 60)):
    stream = io.BytesIO()
    Image.effect_noise(size, 60).save(stream, "PNG")
    return stream.getvalue()


def as_url(data):
    return "data:image/png;base64," + base64.b64encode(data).decode()


def exchange(folder):
    """The same page and answer in every layout that people have it in."""
    data = (folder / "a.png").read_bytes()
    said = {"role": "assistant", "content": "one"}
    parts = [{"type": "image"}, {"type": "text", "text": "Free OCR."}]
    url = {"type": "image_url", "image_url": {"url": as_url(data)}}
    yield {"image": "a.png", "prompt": PROMPT, "answer": "one"}
    yield {"image": as_url(data), "prompt": PROMPT, "answer": "one"}
    yield {"image": base64.b64encode(data).decode(), "answer": "one"}
    yield {"images": ["a.png"], "answer": "one", "messages": None}
    yield {"image": (folder / "a.png").as_uri(), "answer": "one"}
    yield {"messages": [{"role": "user", "content": PROMPT}, said], "images": ["a.png"]}
    yield {"messages": [{"role": "user", "content": "Free OCR."}, said], "images": ["a.png"]}
    yield {"messages": [{"role": "user", "content": parts}, said], "images": ["a.png"], "id": 7}
    yield {"messages": [{"role": "user", "content": [url, parts[1]]}, said]}
    yield {"messages": [{"role": "user", "content": parts}, said],
           "images": [{"bytes": data, "path": None}]}  # fmt: skip
    talk = [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": "one"}]
    yield {"conversations": talk, "image": "a.png"}
    yield {"conversations": talk, "images": ["a.png"], "system": "none"}


def test_every_layout_gives_the_same_batch(folder, processor):
    samples = [sample_from(record, folder, PROMPT) for record in exchange(folder)]
    items = [PageDataset([sample], processor)[0] for sample in samples]
    batches = [PageCollator(processor)([item]) for item in items]
    for batch in batches[1:]:
        for name in ("input_ids", "labels", "images_seq_mask"):
            assert torch.equal(batch[name], batches[0][name])
        assert torch.equal(batch["images"][0][1], batches[0]["images"][0][1])


def test_files_of_other_trainers_are_read(folder):
    """A list or lines, whatever the name, with or without the mark that editors put in front."""
    records = list(exchange(folder))[:7]
    lines = "\n".join(map(json.dumps, records))
    (folder / "all.json").write_text(json.dumps(records))
    (folder / "all.jsonl").write_text(lines)
    (folder / "lines.json").write_text(f"\n{lines}")
    (folder / "marked.jsonl").write_text(lines, encoding="utf-8-sig")
    for name in ("all.json", "all.jsonl", "lines.json", "marked.jsonl"):
        samples = read_samples(folder / name, PROMPT)
        assert [s.answer for s in samples] == ["one"] * 7
        assert all(s.prompt == PROMPT for s in samples)


def test_parquet_and_saved_data_sets_are_read(folder, processor):
    datasets = pytest.importorskip("datasets")
    data = (folder / "a.png").read_bytes()
    rows = {"images": [[{"bytes": data, "path": None}]],
            "messages": [[{"role": "user", "content": PROMPT},
                          {"role": "assistant", "content": "one"}]]}  # fmt: skip
    made = datasets.Dataset.from_dict(rows).cast_column("images", datasets.List(datasets.Image()))
    made.to_parquet(folder / "d.parquet")
    made.save_to_disk(folder / "saved")
    plain = batch_of(read_samples(folder / "data.jsonl", PROMPT)[:1], processor)
    for name in ("d.parquet", "saved"):
        batch = batch_of(read_samples(folder / name), processor)
        assert torch.equal(batch["input_ids"], plain["input_ids"])
        assert torch.equal(batch["images"][0][1], plain["images"][0][1])


def test_a_conversation_has_the_ids_of_serving_and_every_answer_ends(folder, processor):
    record = {
        "messages": [
            {"role": "system", "content": "Be brief.\n"},
            {"role": "user", "content": PROMPT},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "\n<image>\nAnd this?"},
            {"role": "assistant", "content": "two"},
        ],
        "images": ["a.png", "b.jpg"],
    }
    sample = sample_from(record, folder, PROMPT)
    batch = batch_of([sample], processor)
    served = processor([sample.context], [open_image(image) for image in sample.images])
    length = served["input_ids"].shape[1]
    assert torch.equal(batch["input_ids"][0, :length], served["input_ids"][0])
    assert torch.equal(batch["images_seq_mask"][0, :length], served["images_seq_mask"][0])
    learned = batch["labels"][0][batch["labels"][0] != IGNORE_INDEX].tolist()
    assert processor.tokenizer.decode(learned) == f"one{EOS_TOKEN}two{EOS_TOKEN}"
    assert (batch["input_ids"][0] == learned[-1]).sum() == 1  # the last end alone is an id


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"messages": []}, "not empty"),
        ({"messages": [{"role": "user", "content": "x"}]}, "who has the last word"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "not 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "a text or an image"),
        ({"image": "https://a.b/c.png", "answer": "x"}, "not fetched"),
        ({"image": "data:image/png;base64,!", "answer": "x"}, "damaged"),
        ({"prompt": 3, "answer": "x"}, "'prompt' is text"),
        ([1], "is an object"),
    ],
)
def test_records_that_cannot_be_are_named(record, words, tmp_path):
    (tmp_path / "bad.json").write_text(json.dumps([record]))
    with pytest.raises(DataError, match=f"record 1: .*{words}"):
        read_samples(tmp_path / "bad.json")


def test_what_is_left_out_is_counted_with_its_reason(folder, processor):
    good = read_samples(folder / "data.jsonl", PROMPT)
    bad = [Sample((folder / "none.png",), PROMPT, "x"), Sample((), PROMPT, "x")]
    longest = max(len(item["input_ids"]) for item in PageDataset(good, processor))
    dataset = PageDataset([*good, *bad], processor, longest - 1, skip_bad=True)
    assert len(dataset) == 2
    assert dataset.kept.startswith("kept 2 of 5: 1 ")
    assert "1 longer than max_length" in dataset.kept and "none.png" in dataset.kept
    with pytest.raises(DataError, match="more images than"):
        surplus = [(PROMPT, "x"), ("more", "y")]
        PageDataset(
            [Sample((folder / "a.png", folder / "b.jpg"), *surplus[1], (surplus[0],))], processor
        )


def test_lines_that_cannot_be_read_are_left_out_and_named(folder, processor, tiny_path):
    lines = (folder / "data.jsonl").read_text().split("\n\n")
    pictures = [json.dumps({"image": f"{number}.png", "answer": "x"}) for number in range(9)]
    (folder / "some.jsonl").write_text("\n".join([lines[0], "{", *pictures, "[]", lines[2]]))
    values = {"data": str(folder / "some.jsonl"), "output": "o", "model": str(tiny_path)}
    (kept,), problems = check(settings_from(values))
    assert "kept 2 of 13: 1 " in kept and kept.endswith("; 7 for 7 others")
    assert len(problems) == 11 and "line 2: not JSON" in problems[0]

    settings = settings_from({**values, "skip_bad": True, "stream": True,
                              "trainer": {"max_steps": 1}})  # fmt: skip
    assert len(list(open_data(settings, processor))) == 2
    whole = open_data(replace(settings, stream=False), processor)
    assert len(whole) == 2 and whole.kept == kept.partition(": ")[2]
    (folder / "some.jsonl").write_text("{")
    with pytest.raises(DataError, match="nothing to train on: kept 0 of 1: 1 .*not JSON"):
        open_data(replace(settings, stream=False), processor)
    assert check(settings)[1][0].endswith("nothing to train on")


def test_a_stream_gives_the_same_items_and_workers_share_it(folder, processor):
    samples = read_samples(folder / "data.jsonl", PROMPT)
    stream = PageStream(lambda: iter(samples), processor)
    plain = PageDataset(samples, processor)
    for _ in range(2):
        assert [item["input_ids"].tolist() for item in stream] == [
            item["input_ids"].tolist() for item in plain
        ]
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    assert sorted(len(item["input_ids"]) for item in loader) == sorted(
        len(item["input_ids"]) for item in plain
    )


def test_the_size_of_a_png_is_read_without_its_pixels(tmp_path, monkeypatch):
    data = png_bytes((300, 200))
    (tmp_path / "a.png").write_bytes(data)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.png", exif=turned)
    assert upright_size(tmp_path / "turned.png") == (20, 30)
    monkeypatch.setattr(Image, "open", lambda *args: pytest.fail("decoded"))
    assert upright_size(tmp_path / "a.png") == upright_size(data) == (300, 200)
