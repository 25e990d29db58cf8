"""Pages with layout say what they print and where, in the form of the real model's answers."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

pytest.importorskip("matplotlib", reason="the pages use matplotlib's DejaVu fonts")
pytest.importorskip("transformers")

from examples.reader_training import batches, tokenizer  # noqa: E402
from examples.reader_training.layout import answers  # noqa: E402
from examples.reader_training.layout.marks import CORNER, PRINTED  # noqa: E402
from examples.reader_training.layout.page import (  # noqa: E402
    MAX_CHARS,
    held_out_layouts,
    render_chart,
    render_layout,
)
from examples.reader_training.pages import PAGE_SIDE  # noqa: E402
from examples.reader_training.scores.grammar import problem  # noqa: E402
from examples.reader_training.scores.scoring import layout_summary, score_layout  # noqa: E402
from examples.reader_training.words import english_words  # noqa: E402
from vllm_dsocr.config import IGNORE_INDEX  # noqa: E402
from vllm_dsocr.document.grounding import parse_blocks  # noqa: E402
from vllm_dsocr.document.tables import Table, split_tables  # noqa: E402

SEEDS = range(120)


@pytest.fixture(scope="module")
def pages():
    return [page for seed in SEEDS if (page := render_layout(Random(seed))).blocks]


def answers_to(page):
    found = [
        ("markdown", answers.markdown_answer(page)),
        ("ocr", answers.ocr_answer(page)),
        ("free", answers.free_answer(page)),
        ("locate", answers.locate_answer(page, Random(0))),
    ]
    return [(task, answer) for task, answer in found if answer and answer.marks]


def test_same_seed_same_page():
    first, again, other = (render_layout(Random(seed)) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes() != other.image.tobytes()
    assert answers.markdown_answer(first) == answers.markdown_answer(again)


def test_every_label_is_printed_and_every_page_fits(pages):
    assert {block.label for page in pages for block in page.blocks} == set(batches.LABELS)
    assert len(pages) > 0.95 * len(SEEDS)
    for page in pages:
        assert sum(len(line.text) for line in page.lines) < 1.5 * MAX_CHARS
        for block in page.blocks:
            x1, y1, x2, y2 = block.box
            assert 0 <= x1 < x2 <= PAGE_SIDE and 0 <= y1 < y2 <= PAGE_SIDE, block.label


def test_blocks_lie_apart(pages):
    for page in pages:
        boxes = [block.box for block in page.blocks]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                apart = a[0] >= b[2] or b[0] >= a[2] or a[1] >= b[3] or b[1] >= a[3]
                assert apart, (a, b)


def test_answers_are_of_their_tasks_form(pages):
    charts = [render_chart(Random(seed)) for seed in range(20)]
    for page in pages:
        for task, answer in answers_to(page):
            assert problem(task, answer.text) is None, answer.text
            assert answer.text.isascii()
    for chart in charts:
        assert problem("figure", answers.figure_answer(chart).text) is None


@pytest.mark.parametrize(
    ("task", "text"),
    [
        ("markdown", "<|ref|>titel<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n# A"),
        ("markdown", "<|ref|>title<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\nA"),
        ("markdown", "<|ref|>text<|/ref|><|det|>[[9, 2, 3, 4]]<|/det|>\nA"),
        ("markdown", "<|ref|>table<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n<table><tr>"),
        ("ocr", "A line"),
        ("free", "A <|det|>"),
        ("figure", "nothing"),
        ("locate", ""),
    ],
)
def test_other_forms_are_problems(task, text):
    assert problem(task, text)


def test_blocks_read_back_from_markdown(pages):
    for page in pages:
        text = answers.markdown_answer(page).text
        said = parse_blocks(text)
        truth = answers.block_boxes(page.blocks)
        assert [(block.label, block.boxes[0].corners) for block in said] == truth
        tables = [part for part in split_tables(text) if isinstance(part, Table)]
        assert len(tables) == sum(block.label == "table" for block in page.blocks)


def test_markdown_is_written_as_the_recorded_model_writes(pages):
    """Tag, line break, content, two spaces, empty line; a picture's tag stands alone."""
    page = next(p for p in pages if len(p.blocks) > 1 and p.blocks[0].label == "title")
    tag, content, empty, *_ = answers.markdown_answer(page).text.split("\n")
    assert tag.startswith("<|ref|>title<|/ref|><|det|>[[") and tag.endswith("]]<|/det|>")
    assert content.startswith("# ") and content.endswith("  ") and empty == ""
    captions = [
        block.content for page in pages for block in page.blocks if "caption" in block.label
    ]
    for content in captions:
        text = "".join(mark.text for mark in content)
        assert text.startswith("<center>") and text.endswith(" </center>")


def test_paragraphs_are_printed_in_lines_and_said_in_one(pages):
    texts = [b for p in pages for b in p.blocks if b.label == "text" and len(b.lines) > 1]
    assert len(texts) > 20
    for block in texts:
        said = "".join(mark.text for mark in block.content)
        if not said.startswith("- "):
            assert said == " ".join(line.text for line in block.lines)


def test_ink_lies_where_marks_are_printed(pages):
    inked = []
    for page in pages:
        pixels = np.asarray(page.image, np.float32)
        paper = np.median(pixels)
        for mark in answers.markdown_answer(page).marks:
            if mark.kind == PRINTED and mark.text.isalnum():
                x, y = int(mark.x), int(mark.y)
                around = pixels[max(0, y - 9) : y + 10, max(0, x - 5) : x + 6]
                inked.append(around.min() < paper - 60)
    assert np.mean(inked) > 0.98


def test_corners_are_looked_for_where_they_lie(pages):
    page = pages[0]
    marks = answers.markdown_answer(page).marks
    digits = [mark for mark in marks if mark.kind == CORNER]
    places = {(mark.x, mark.y) for mark in digits}
    assert places == {corner for b in page.blocks for corner in (b.box[:2], b.box[2:])}


def test_strips_name_places_on_the_whole_page():
    page = render_layout(Random(3), height=256)
    low, high = (answers.markdown_answer(page, top) for top in (384, 0))
    for a, b in zip(parse_blocks(low.text), parse_blocks(high.text), strict=True):
        assert abs(a.boxes[0].y1 - b.boxes[0].y1 - 384 / 640 * 999) <= 1
        assert a.boxes[0].x1 == b.boxes[0].x1


def test_located_texts_are_on_the_page_once(pages):
    for page in pages:
        answer = answers.locate_answer(page, Random(1))
        if answer:
            (block,) = parse_blocks(answer.text)
            assert f"<|ref|>{block.label}<|/ref|>" in answer.prompt
            assert " ".join(line.text for line in page.lines).count(block.label) == 1


def test_held_out_layouts_show_no_trained_word():
    shown = {
        word
        for page in held_out_layouts(20)
        for line in page.lines
        for word in line.text.lower().split()
        if word.isalpha()
    }
    assert len(shown & set(english_words(True))) > 30
    assert not shown & {w for w in english_words(False) if len(w) > 6}


def test_batches_carry_marks_blocks_and_corners():
    pages = [page for seed in range(9) if (page := render_layout(Random(seed), 256)).blocks]
    samples = [batches.Sample(p.image, answers.markdown_answer(p, 128), p.blocks) for p in pages]
    batch = batches.make_batch(samples, top=128)
    for row, sample in enumerate(samples):
        said = batch.labels[row] != IGNORE_INDEX
        ids = batch.labels[row][said].tolist()
        assert ids[-1] == tokenizer.EOS_ID
        assert tokenizer.decode_markup(ids) == sample.answer.text
        kinds = batch.kinds[row][said].tolist()
        assert kinds[:-1] == [mark.kind for mark in sample.answer.marks]
    assert len(batch.corners) == 2 * sum(len(page.blocks) for page in pages)
    row, x, y, label, x1, y1, x2, y2 = batch.queries.unbind(1)
    assert set(row.tolist()) == set(range(len(pages)))
    assert bool(((x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)).all())
    assert int(label.max()) < len(batches.LABELS)


def test_ranks_get_other_pages_of_like_length():
    first, second = (batches.BatchMaker(1, rank) for rank in (0, 1))
    mix = batches.Mix(plain=0.3, chars=0.5)
    for height in (256, 384):
        a, b = first.next(height, mix), second.next(height, mix)
        assert a.pixels.shape == b.pixels.shape and a.top == b.top
        assert not torch.equal(a.pixels, b.pixels)


def test_scores_of_known_faults(pages):
    page = next(p for p in pages if {"table", "text"} <= {b.label for b in p.blocks})
    truth = answers.markdown_answer(page).text
    perfect = score_layout(truth, truth)
    assert perfect.edits == 0 and all(o == 1 for o in perfect.overlaps) and all(perfect.labels)
    assert perfect.in_order and perfect.valid and perfect.teds == 1
    blocks = truth.split("  \n\n")
    swapped = "  \n\n".join([blocks[1], blocks[0], *blocks[2:]])
    assert not score_layout(swapped, truth).in_order
    renamed = truth.replace("<|ref|>table<|/ref|>", "<|ref|>text<|/ref|>")
    assert not all(score_layout(renamed, truth).labels)
    cells = truth.replace("</td></tr></table>", "?</td></tr></table>")
    assert 0.5 < score_layout(cells, truth).teds < 1
    summary = layout_summary([perfect, score_layout("", truth)])
    assert summary["iou"] == summary["labels"] == summary["teds"] == 0.5
    assert summary["valid"] == 0.5
