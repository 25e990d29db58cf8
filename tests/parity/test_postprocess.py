"""The official post-processing of model text, and where ours differs on purpose."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path

from PIL import Image

from vllm_dsocr.document.blocks import Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.render.figures import crop_figures
from vllm_dsocr.render.markdown import page_markdown

# Where the official code does what a reader of the page would not want, ours does this:
MARKDOWN_DIFFERENCES = {
    # Every box has its own picture; officially links count tags and files count boxes.
    "image ref with two boxes: crop index and markdown index differ": (
        "![](images/0.jpg)\n![](images/1.jpg)\n\n![](images/2.jpg)\n"
    ),
    # The second of two equal figures links to its own file.
    "identical image refs": "![](images/0.jpg)\n a ![](images/1.jpg)\n b",
    # A tag that is not well formed is text: nothing the model wrote is thrown away.
    "malformed: three numbers": (
        "<|ref|>text<|/ref|><|det|>[[1, 2, 3]]<|/det|>\nkept text\n\nnext"
    ),
    "malformed: not python": "<|ref|>text<|/ref|><|det|>[[1, 2, 3, ]x<|/det|>\nkept",
    # An unclosed tag does not swallow the text and the tag after it.
    "malformed: unclosed det": "<|ref|>text<|/ref|><|det|>[[1, 2, 3, 4]]\nkept  tail",
}
BOX_DIFFERENCES = {
    # The title after the unclosed tag has its box.
    "malformed: unclosed det": [("title", (2, 1, 2, 2))],
}


def _cases(data: Path) -> list[dict]:
    return json.loads((data / "golden" / "postprocess.json").read_text("utf-8"))["cases"]


def _page(case: dict) -> Page:
    width, height = case["image_size_wh"]
    return Page(1, "ok", width, height, blocks=parse_blocks(case["model_output"]))


def _boxes(written: str) -> list[list[int]] | None:
    """The boxes of a tag the official expression matched, None unless well formed."""
    try:
        boxes = json.loads(written)
    except ValueError:
        return None
    well_formed = all(
        len(box) == 4 and 0 <= box[0] <= box[2] <= 999 and 0 <= box[1] <= box[3] <= 999
        for box in boxes
    )
    return boxes if well_formed else None


def _has_good_tags(case: dict) -> bool:
    return all(_boxes(written) for _, _, written in case["re_match"])


def _has_plain_figures(case: dict) -> bool:
    """One box for each figure and no two figures alike."""
    figures = Counter(tag for tag, label, _ in case["re_match"] if label == "image")
    one_box = all(
        len(_boxes(written) or ()) == 1
        for _, label, written in case["re_match"]
        if label == "image"
    )
    return one_box and all(count == 1 for count in figures.values())


def _markdown(case: dict) -> str:
    return page_markdown(_page(case), lambda figure: f"images/{figure.index}.jpg")


def test_markdown_equals_the_official_one(parity_data: Path) -> None:
    for case in _cases(parity_data):
        if _has_good_tags(case) and _has_plain_figures(case):
            assert _markdown(case) == case["markdown"], case["name"]


def test_markdown_differs_only_as_listed(parity_data: Path) -> None:
    for case in _cases(parity_data):
        if case["name"] in MARKDOWN_DIFFERENCES:
            assert _markdown(case) == MARKDOWN_DIFFERENCES[case["name"]]
            assert _markdown(case) != case["markdown"]


def test_pixel_boxes_equal_the_official_ones(parity_data: Path) -> None:
    for case in _cases(parity_data):
        page = _page(case)
        found = [
            (block.label, box.pixels(page.width, page.height))
            for block in page.blocks
            for box in block.boxes
        ]
        official = [(drawn["label"], tuple(drawn["box"])) for drawn in case["boxes_px"]]
        if _has_good_tags(case):
            assert found == official, case["name"]
        elif case["name"] in BOX_DIFFERENCES:
            assert found == BOX_DIFFERENCES[case["name"]]


def test_crops_have_the_official_sizes(parity_data: Path) -> None:
    for case in filter(_has_good_tags, _cases(parity_data)):
        page = _page(case)
        image = Image.new("RGB", (page.width, page.height))
        crops = {
            f"{figure.index}.jpg": list(Image.open(io.BytesIO(data)).size)
            for figure, data in crop_figures(image, page)
        }
        assert crops == case["saved_crops"], case["name"]


def test_text_that_stops_the_official_code_is_text_here(parity_data: Path) -> None:
    for case in _cases(parity_data):
        if "error" not in case or case["re_match"]:
            continue
        assert [block.content for block in _page(case).blocks] == [case["model_output"]]
