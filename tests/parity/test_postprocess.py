"""The official post-processing of model text, and where ours differs on purpose.

What is compared how is decided by what a case holds, never by its name, so that any data of the
format will do. Ours is the same wherever the official code reads sane boxes; `differences` lists
the kinds of exception, and in those no word of the text is lost.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vllm_dsocr.document.blocks import BOX_MAX, Page
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.document.labels import FIGURES, LAYOUT_LABELS
from vllm_dsocr.render.figures import crop_figures
from vllm_dsocr.render.text.official import page_markdown

Case = dict[str, Any]
Corners = tuple[int, int, int, int]

_WHOLE_TAG = re.compile(
    r"<\|ref\|>((?:(?!<\|).)*)<\|/ref\|><\|det\|>((?:(?!<\|).)*)<\|/det\|>", re.S
)
_PLAIN_TAG = re.compile(r"^[ \t]*(\w+)\[\[[-+0-9.,\s\[\]()]*?\]\s?\]", re.M)
_LINK = re.compile(r"!\[\]\(images/\d+\.jpg\)\n")
_LATEX = re.compile(r"\\coloneqq|\\eqqcolon|:=|=:")


def _cases(data: Path) -> list[Case]:
    return json.loads((data / "golden" / "postprocess.json").read_text("utf-8"))["cases"]


def _page(case: Case) -> Page:
    width, height = case["image_size_wh"]
    return Page(1, "ok", width, height, blocks=parse_blocks(case["model_output"]))


def _markdown(case: Case) -> str:
    return page_markdown(_page(case), lambda figure: f"images/{figure.index}.jpg")


def _sane_boxes(written: str) -> list[Corners] | None:
    """The boxes of a list that is as the model was trained to write it, else None."""
    try:
        boxes = json.loads(written)
    except (ValueError, RecursionError):
        return None
    is_sane = isinstance(boxes, list) and all(map(_is_box, boxes)) and boxes
    return [tuple(box) for box in boxes] if is_sane else None


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(type(number) is int for number in box)
        and 0 <= box[0] <= box[2] <= BOX_MAX
        and 0 <= box[1] <= box[3] <= BOX_MAX
    )


def _has_area(box: Corners, case: Case) -> bool:
    left, top, right, bottom = _pixels(box, case)
    return left < right and top < bottom


def _pixels(box: Corners, case: Case) -> Corners:
    width, height = case["image_size_wh"]
    x1, y1, x2, y2 = box
    return (
        int(x1 / BOX_MAX * width),
        int(y1 / BOX_MAX * height),
        int(x2 / BOX_MAX * width),
        int(y2 / BOX_MAX * height),
    )


def differences(case: Case) -> set[str]:
    """Which kinds of difference are in a case; empty where ours must be the same."""
    kinds = set()
    figures: list[str] = []
    for tag, label, written in case["re_match"]:
        boxes = _sane_boxes(written)
        if "<|" in label or "<|" in written:
            kinds.add("an unclosed tag swallows what follows it")
        elif boxes is None:
            kinds.add("a list that is no list of boxes")
        if label.strip() not in FIGURES:
            continue
        if label != "image":
            kinds.add("a figure that is not called image")
        elif boxes is not None and len(boxes) > 1:
            kinds.add("links count figures, files count boxes")
        elif boxes is not None and not _has_area(boxes[0], case):
            kinds.add("a figure without area")
        elif tag in figures:
            kinds.add("equal figures link to one file")
        figures.append(tag)
    plain = (tag[1] in LAYOUT_LABELS for tag in _PLAIN_TAG.finditer(case["model_output"]))
    if not case["re_match"] and any(plain):
        kinds.add("tags without special tokens")
    return kinds


def test_markdown_equals_the_official_one(parity_data: Path) -> None:
    for case in _cases(parity_data):
        if not differences(case):
            assert _markdown(case) == case["markdown"], case["name"]


def test_where_markdown_differs_no_word_is_lost(parity_data: Path) -> None:
    for case in filter(differences, _cases(parity_data)):
        ours = _LATEX.sub(" ", _LINK.sub("", _markdown(case)))
        text = _WHOLE_TAG.sub("", case["model_output"])
        if text == case["model_output"]:
            text = _PLAIN_TAG.sub(lambda tag: "" if tag[1] in LAYOUT_LABELS else tag[0], text)
        if "tags without special tokens" not in differences(case):
            assert ours.split() == _LATEX.sub(" ", text).split(), case["name"]
        for word in re.findall(r"[^\W\d]{2,}", _LATEX.sub(" ", text)):
            assert word in ours, case["name"]


def test_where_only_lists_are_odd_markdown_is_the_official_one(parity_data: Path) -> None:
    for case in _cases(parity_data):
        no_figures = all(label.strip() not in FIGURES for _, label, _ in case["re_match"])
        if differences(case) == {"a list that is no list of boxes"} and no_figures:
            assert _markdown(case) == case["markdown"], case["name"]


def test_every_figure_has_its_own_link_and_file(parity_data: Path) -> None:
    for case in _cases(parity_data):
        page = _page(case)
        image = Image.new("RGB", (page.width, page.height))
        files = [f"images/{figure.index}.jpg" for figure, _ in crop_figures(image, page)]
        links = re.findall(r"!\[\]\((images/\d+\.jpg)\)\n", _markdown(case))
        written = re.findall(r"!\[\]\((images/\d+\.jpg)\)\n", case["model_output"])
        assert links == files or written, case["name"]
        assert len(set(files)) == len(files)


def test_pixel_boxes_equal_the_official_ones(parity_data: Path) -> None:
    """A drawn box has a label where the official code got as far as drawing that, too."""
    for case in _cases(parity_data):
        ours = [
            (block.label, box.pixels(*case["image_size_wh"]))
            for block in _page(case).blocks
            for box in block.boxes
        ]
        if all(_sane_boxes(written) for _, _, written in case["re_match"]) and case["re_match"]:
            assert [box for _, box in ours] == [tuple(box["box"]) for box in case["boxes_px"]]
            for (label, _), drawn in zip(ours, case["boxes_px"], strict=True):
                official = drawn.get("label")
                assert official is None or "<|" in official or official.strip() == label
        sane = [
            _pixels(box, case)
            for _, label, written in case["re_match"]
            if "<|" not in label
            for box in _sane_boxes(written) or ()
        ]
        rest = iter(box for _, box in ours)
        assert all(box in rest for box in sane), f"{case['name']}: in order, none left out"


def test_crops_have_the_official_sizes(parity_data: Path) -> None:
    for case in _cases(parity_data):
        alike = {"links count figures, files count boxes", "equal figures link to one file"}
        if differences(case) - alike - {"a figure without area"}:
            continue
        page = _page(case)
        image = Image.new("RGB", (page.width, page.height))
        crops = {
            f"{figure.index}.jpg": list(Image.open(io.BytesIO(data)).size)
            for figure, data in crop_figures(image, page)
        }
        assert crops == case["saved_crops"], case["name"]


def test_text_that_stops_the_official_code_is_text_here(parity_data: Path) -> None:
    for case in _cases(parity_data):
        if "error" in case and not case["re_match"] and not differences(case):
            text = case["model_output"].strip()
            assert [block.content for block in _page(case).blocks] == ([text] if text else [])


@pytest.mark.parametrize(
    "written", ["[1, 2, 3, 4]", "[[[]]]", "[[1, 2, 3]]", "7", "[" * 9999, "[]"]
)
def test_no_list_upsets_the_judge(written: str) -> None:
    assert _sane_boxes(written) is None
