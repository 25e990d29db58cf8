from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("vllm")

from vllm.config import ModelConfig
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.multimodal.media import ImageMediaIO, MediaWithBytes
from vllm.multimodal.parse import parse_mm_uuids
from vllm.multimodal.processing import BaseMultiModalProcessor
from vllm.multimodal.utils import group_and_batch_mm_items

from tests.plugin.engines import register
from vllm_dsocr.config import MODES, OptionError, PageOptions, Resolution
from vllm_dsocr.page.geometry import plan_tiles
from vllm_dsocr.page.pixels import page_tensors
from vllm_dsocr.page.prompt import PromptError
from vllm_dsocr.page.source import PageError

IMAGE = 880  # the tiny tokenizer's `<image>`
Processor = BaseMultiModalProcessor
GetProcessor = Callable[..., Processor]


@pytest.fixture(scope="session")
def get_processor(checkpoint: Path) -> GetProcessor:
    register()

    def create(max_model_len: int = 4096, **options: Any) -> Processor:
        config = ModelConfig(
            str(checkpoint), max_model_len=max_model_len, mm_processor_kwargs=options
        )
        return MULTIMODAL_REGISTRY.create_processor(config)

    return create


@pytest.fixture(scope="session")
def processor(get_processor: GetProcessor) -> Processor:
    return get_processor()


def process(
    processor: Processor, text: str | list[int], *images: Any, **options: Any
) -> dict[str, Any]:
    items = processor.info.parse_mm_data({"image": list(images)} if images else {})
    return processor(text, items, hf_processor_mm_kwargs=options)


def fields(inputs: dict[str, Any], index: int = 0) -> dict[str, torch.Tensor]:
    return inputs["mm_kwargs"]["image"][index].get_data()


@pytest.mark.parametrize("mode", MODES)
def test_placeholders_and_tensors_follow_the_plan(
    processor: Processor, pages: dict[str, Image.Image], mode: str
) -> None:
    page = pages["v1_page"]
    plan = plan_tiles(*page.size, MODES[mode])
    inputs = process(processor, "<image>\nFree OCR.", page, mode=mode)
    (placeholder,) = inputs["mm_placeholders"]["image"]
    assert (placeholder.offset, placeholder.length) == (1, plan.num_image_tokens)
    assert inputs["prompt_token_ids"].count(IMAGE) == plan.num_image_tokens
    data = fields(inputs)
    base, tile = MODES[mode].base_size, MODES[mode].image_size
    assert data["global_view"].shape == (3, base, base)
    assert data["tiles"].shape == (plan.num_tiles, 3, tile, tile)
    assert data["grid"].tolist() == [plan.rows, plan.cols]
    assert {data["global_view"].dtype, data["tiles"].dtype} == {torch.uint8}


def test_every_image_of_a_prompt_has_its_own_plan(
    processor: Processor, pages: dict[str, Image.Image]
) -> None:
    wide, small = pages["v2_wide"], pages["v3_small"]
    inputs = process(processor, "<image>a<image>", wide, small)
    lengths = [range_.length for range_ in inputs["mm_placeholders"]["image"]]
    plans = [plan_tiles(*page.size, MODES["gundam"]) for page in (wide, small)]
    assert lengths == [plan.num_image_tokens for plan in plans]
    assert torch.equal(fields(inputs, 0)["tiles"], page_tensors(wide, PageOptions()).tiles)


def test_images_of_different_modes_in_one_batch_are_listed_not_padded(
    processor: Processor, pages: dict[str, Image.Image]
) -> None:
    modes = ["gundam", "gundam-m", "tiny"]
    items = [
        process(processor, "<image>", pages["v1_page"], mode=mode)["mm_kwargs"]["image"][0]
        for mode in modes
    ]
    ((count, batch),) = group_and_batch_mm_items(items)
    assert count == 3
    sizes = [tiles.shape[-1] for tiles in batch["tiles"]]
    assert sizes == [MODES[mode].image_size for mode in modes]
    assert batch["grid"].shape == (3, 2)


def test_options_are_layered_checkpoint_server_request(
    get_processor: GetProcessor, pages: dict[str, Image.Image]
) -> None:
    server = get_processor(mode="small", device="cpu")  # vLLM adds `device` itself

    def tokens(**options: Any) -> int:
        inputs = process(server, "<image>", pages["v1_page"], **options)
        return inputs["prompt_token_ids"].count(IMAGE)

    assert tokens() == 111
    assert tokens(mode="tiny") == 73
    assert tokens(mode=None) == 111
    assert tokens(image_size=1024) == 273


def test_processor_config_names_the_default_mode(
    get_processor: GetProcessor, checkpoint: Path, tmp_path: Path, pages: dict[str, Image.Image]
) -> None:
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "processor_config.json").write_text('{"mode": "base", "image_mean": [0.5]}')
    processor = MULTIMODAL_REGISTRY.create_processor(ModelConfig(str(tmp_path)))
    assert process(processor, "<image>", pages["v1_page"])["prompt_token_ids"].count(IMAGE) == 273


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mode": "huge"}, "mode must be one of tiny, small"),
        ({"size": 3}, "unknown option 'size'"),
        ({"device": "cuda"}, "unknown option 'device'"),
        ({"base_size": "large"}, "base_size must be an integer"),
        ({"max_crops": 400}, "max_crops must be between"),
    ],
)
def test_bad_options_are_named(
    processor: Processor, pages: dict[str, Image.Image], options: dict[str, Any], words: str
) -> None:
    with pytest.raises(OptionError, match=words):
        process(processor, "<image>", pages["v3_small"], **options)


def test_bad_options_of_the_server_are_named(get_processor: GetProcessor) -> None:
    with pytest.raises(OptionError, match="mode must be one of"):
        get_processor(mode="huge").info.get_mm_max_tokens_per_item(4096, {"image": 1})


@pytest.mark.parametrize(
    ("text", "images"), [("no tag", 1), ("<image><image>", 1), ("<image>", 2), ([IMAGE] * 3, 2)]
)
def test_tags_and_images_must_agree(
    processor: Processor, pages: dict[str, Image.Image], text: str | list[int], images: int
) -> None:
    tags = text.count("<image>" if isinstance(text, str) else IMAGE)
    with pytest.raises(PromptError, match=f"{tags} <image> tags for {images} images"):
        process(processor, text, *[pages["v3_small"]] * images)


def test_bos_is_there_once(processor: Processor, pages: dict[str, Image.Image]) -> None:
    for ids in ([IMAGE, 5], [0, IMAGE, 5]):
        expanded = process(processor, ids, pages["v3_small"], mode="tiny")["prompt_token_ids"]
        assert expanded == [0, *[IMAGE] * 73, 5]


def test_cache_key_is_page_and_resolution(
    processor: Processor, pages: dict[str, Image.Image]
) -> None:
    def key(page: Image.Image, **options: Any) -> str:
        return process(processor, "<image>", page, **options)["mm_hashes"]["image"][0]

    page = pages["v3_small"]
    assert key(page) != key(page, mode="tiny")
    assert key(page) != key(page, resampler="pillow")
    assert key(page) != key(page, alpha="drop")
    assert key(page) == key(page, mode="gundam") == key(page, max_crops=9, crop_mode=True)
    turned = page.copy()
    turned.getexif()[0x0112] = 6
    assert key(page) != key(turned)


@pytest.mark.parametrize("alpha", ["white", "drop"])
@pytest.mark.parametrize("name", ["v4_gray", "v5_rgba", "v6_palette", "v7_exif6"])
def test_pixels_are_the_same_from_bytes_and_from_pil(
    processor: Processor, pages: dict[str, Image.Image], name: str, alpha: str
) -> None:
    page = pages[name]
    sent = ImageMediaIO().load_bytes(Path(page.filename).read_bytes())
    want = page_tensors(page, PageOptions(alpha=alpha)).global_view
    for image in (page, sent):
        inputs = process(processor, "<image>", image, alpha=alpha)
        assert torch.equal(fields(inputs)["global_view"], want)


def test_a_background_the_user_chose_is_kept(
    processor: Processor, pages: dict[str, Image.Image]
) -> None:
    data = Path(pages["v5_rgba"].filename).read_bytes()
    sent = ImageMediaIO(rgba_background_color=(255, 0, 0)).load_bytes(data)
    inputs = process(processor, "<image>", sent)
    assert torch.equal(
        fields(inputs)["global_view"], page_tensors(sent.media, PageOptions()).global_view
    )


def test_arrays_are_images_too(processor: Processor, pages: dict[str, Image.Image]) -> None:
    """In every layout and range that image libraries hand out."""
    page = pages["v3_small"].convert("RGB")
    array = np.asarray(page)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    want = fields(process(processor, "<image>", page))["global_view"]
    for image in (array, array.transpose(2, 0, 1), tensor, tensor / 255, tensor.float()):
        assert torch.equal(fields(process(processor, "<image>", image))["global_view"], want)


def test_a_batch_of_arrays_is_that_many_images(processor: Processor) -> None:
    batch = np.stack([np.full((40, 50, 3), value, np.uint8) for value in (10, 200)])
    for images in (batch, torch.from_numpy(batch).permute(0, 3, 1, 2)):
        items = processor.info.parse_mm_data({"image": images})
        inputs = processor("<image><image>", items, hf_processor_mm_kwargs={"mode": "tiny"})
        values = [fields(inputs, index)["global_view"].unique().tolist() for index in (0, 1)]
        assert values == [[10], [200]]


def test_an_image_of_no_pixels_known_by_its_uuid_needs_the_cache(processor: Processor) -> None:
    items = processor.info.parse_mm_data({"image": [None]})
    uuids = parse_mm_uuids({"image": ["page-1"]})
    with pytest.raises(PageError, match="needs the processor cache, which is off"):
        processor("<image>", items, mm_uuid_items=uuids)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("page.png", "must be a PIL image or an array, got str"),
        (np.zeros((2, 2, 5)), "an array of 2x2x5 float64; an image has the shape"),
        (np.full((9, 9), -1.0), "must be 0 to 1 or 0 to 255, got -1 to -1"),
        (np.full((9, 9), np.nan), "must be finite"),
        (np.zeros((9, 9, 3), np.int64), "as bytes or floats"),
        (torch.zeros(4, 64), "embeddings are not supported"),
    ],
)
def test_what_is_no_image_is_refused(processor: Processor, image: Any, words: str) -> None:
    with pytest.raises(PageError, match=words):
        process(processor, "<image>", image)


def test_damaged_bytes_are_refused(processor: Processor, pages: dict[str, Image.Image]) -> None:
    data = Path(pages["v5_rgba"].filename).read_bytes()
    whole = ImageMediaIO().load_bytes(data)
    cut = MediaWithBytes(whole.media, data[: len(data) // 2], whole.io_config)
    with pytest.raises(PageError, match="damaged or truncated"):
        process(processor, "<image>", cut)


@pytest.mark.parametrize(
    ("max_model_len", "tokens"),
    [
        (8192, 2869),  # gundam-m, nine tiles in a column
        (1264, 1237),  # gundam-m with three; more do not fit, nor do gundam's nine
        (75, 73),  # tiny, BOS and one token to answer with
    ],
)
def test_largest_page_is_the_one_that_fits(
    get_processor: GetProcessor, max_model_len: int, tokens: int
) -> None:
    processor = get_processor(max_model_len=max_model_len)
    assert processor.info.get_mm_max_tokens_per_item(100, {"image": 1}) == {"image": tokens}
    dummy = processor.get_dummy_mm_inputs({"image": 1})
    assert dummy["mm_placeholders"]["image"][0].length == tokens
    assert processor.info.get_mm_max_tokens_per_item(100, {}) == {}


def test_largest_page_counts_the_servers_own_resolution(get_processor: GetProcessor) -> None:
    own = Resolution(1280, 1280, crop_mode=True, max_crops=9)
    processor = get_processor(max_model_len=8192, base_size=1280, image_size=1280)
    assert processor.info.page_options.resolution == own
    assert processor.info.largest_plan.num_image_tokens == 421 + 180 * 21


@pytest.mark.parametrize(
    ("limits", "tokens"),
    [
        ({}, 2869),
        ({"request_modes": False}, 1263),  # gundam's nine in a column
        ({"max_tokens": 2048}, 2005),  # gundam-m with two by three
        ({"request_modes": False, "max_tokens": 1000}, 983),
    ],
)
def test_largest_page_is_one_that_the_server_serves(
    get_processor: GetProcessor, limits: dict[str, Any], tokens: int
) -> None:
    processor = get_processor(max_model_len=8192)
    processor.info.ctx.model_config.hf_config.dsocr_page_limits = limits
    assert processor.info.get_mm_max_tokens_per_item(8192, {"image": 1}) == {"image": tokens}
    dummy = processor.get_dummy_mm_inputs({"image": 1})
    assert dummy["mm_placeholders"]["image"][0].length == tokens


@pytest.mark.parametrize(
    ("sides", "tokens"),
    [
        ({"width": 512, "height": 512}, 421),  # nothing is cut; large has most tokens
        ({"width": 700, "height": 640}, 1183),  # a strip of gundam,
        ({"height": 1024}, 2741),
        ({"width": 20_000, "height": 20_000}, 2869),
    ],
)
def test_stated_sides_bound_the_largest_page(
    checkpoint: Path, sides: dict[str, int], tokens: int
) -> None:
    register()
    limits = {"image": {"count": 2, **sides}}
    config = ModelConfig(str(checkpoint), max_model_len=8192, limit_mm_per_prompt=limits)
    processor = MULTIMODAL_REGISTRY.create_processor(config)
    page = processor.info.largest_plan
    assert all(
        length <= sides.get(name, length)
        for name, length in zip(("width", "height"), page.size, strict=True)
    )
    assert page.num_image_tokens == tokens
    dummy = processor.get_dummy_mm_inputs({"image": 2})
    assert {item.length for item in dummy["mm_placeholders"]["image"]} == {tokens}


def test_a_step_without_room_for_an_image_is_refused(get_processor: GetProcessor) -> None:
    info = get_processor().info
    info.ctx.model_config.hf_config.dsocr_page_limits = {"max_tokens": 64}
    with pytest.raises(ValueError, match="max_num_batched_tokens must be at least 73"):
        info.get_mm_max_tokens_per_item(4096, {"image": 1})


def test_a_context_without_room_for_an_image_is_refused(get_processor: GetProcessor) -> None:
    info = get_processor(max_model_len=74).info
    with pytest.raises(ValueError, match="max_model_len must be at least 75 .*, got 74"):
        info.get_mm_max_tokens_per_item(74, {"image": 1})


def test_sixteen_bit_greys_are_not_clipped(processor: Processor) -> None:
    grey = Image.fromarray(np.full((64, 64), 0x8080, dtype=np.uint16))
    file = io.BytesIO()
    grey.save(file, "PNG")
    sent = ImageMediaIO().load_bytes(file.getvalue())
    assert fields(process(processor, "<image>", sent, mode="tiny"))["global_view"].unique() == 0x80
