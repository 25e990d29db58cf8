"""Tokens and their probabilities find their words, blocks and page, by hand-counted numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_dsocr.document.blocks import Page, Word
from vllm_dsocr.document.confidence import iter_words, with_confidence, words_in
from vllm_dsocr.document.grounding import parse_blocks, placed_blocks
from vllm_dsocr.document.record import page_from_record, page_record
from vllm_dsocr.render.document_json import full_record

SCHEMA = Path(__file__).parents[2] / "docs" / "document.schema.json"
LAYOUT = (
    "<|ref|>title<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n# Two words\n\n"
    "<|ref|>image<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n"
)


def scored(text: str, *tokens: tuple[str, float]) -> Page:
    page = Page(1, "ok", 10, 10, text=text, blocks=parse_blocks(text))
    return with_confidence(page, [(token, math.log(p)) for token, p in tokens])


def test_a_words_confidence_is_that_of_its_tokens_together() -> None:
    page = scored("one two", ("on", 0.5), ("e", 0.98), (" two", 0.9))
    (block,) = page.blocks
    one, two = block.confidence.words
    assert (one.text, one.start, two.text, two.start) == ("one", 0, "two", 4)
    assert one.confidence == pytest.approx(math.sqrt(0.5 * 0.98))
    assert two.confidence == pytest.approx(0.9)
    assert page.confidence.mean == pytest.approx((0.5 + 0.98 + 0.9) / 3)
    assert page.confidence.minimum == pytest.approx(0.5)
    assert block.confidence.label is None


def test_tags_count_for_no_word_but_their_label() -> None:
    tokens = [("<|ref|>", 0.1), ("title", 0.7), ("<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>", 0.1)]
    tokens += [("\n#", 1.0), (" Two", 0.8), (" words", 0.6), ("\n\n", 0.2), ("<|ref|>", 0.1)]
    tokens += [("image", 0.5), ("<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>\n", 0.1)]
    page = scored(LAYOUT, *tokens, ("<｜end▁of▁sentence｜>", 0.05))
    title, image = page.blocks
    assert [word.text for word in title.confidence.words] == ["#", "Two", "words"]
    assert title.confidence.label == pytest.approx(0.7)
    assert title.confidence.minimum == page.confidence.minimum == pytest.approx(0.6)
    assert image.confidence.words == () and image.confidence.mean is None
    assert image.confidence.label == pytest.approx(0.5)
    assert page.confidence.mean == pytest.approx((1 + 0.8 + 0.6) / 3)


def test_words_that_stand_in_the_tag_are_words() -> None:
    text = "<|ref|>The perils<|/ref|><|det|>[[1, 2, 3, 4]]<|/det|>"
    page = scored(text, ("<|ref|>", 1), ("The", 0.9), (" perils", 0.8), ("<|/ref|>", 1))
    (block,) = page.blocks
    assert [(w.text, w.start) for w in block.confidence.words] == [("The", 7), ("perils", 11)]
    assert block.confidence.label is None


def test_cells_of_a_table_are_words_of_their_own() -> None:
    text = '<table><tr><td colspan="2">a b</td><td>1<2</td></tr></table>'
    assert [word for word, _ in iter_words(text)] == ["a", "b", "1", "<", "2"]
    assert [text[start] for _, start in iter_words(text)] == ["a", "b", "1", "<", "2"]


def test_parts_of_a_character_share_it() -> None:
    """Hosts give them as U+FFFD each, or as nothing until the character is there."""
    for first in ("\ufffd", ""):
        last = "\ufffd" if first else "字"
        page = scored("a 字 b", ("a ", 0.9), (first, 0.5), (last, 0.8), (" b", 0.9))
        word = page.blocks[0].confidence.words[1]
        assert word.text == "字"
        assert word.confidence == pytest.approx(math.sqrt(0.5 * 0.8))
    page = scored("a 字", ("a ", 0.9), ("\ufffd", 0.5), ("\ufffd", 0.8))
    assert page.blocks[0].confidence.words[1].confidence == pytest.approx(math.sqrt(0.4))


def test_a_text_cut_at_its_loop_keeps_the_tokens_before() -> None:
    page = scored("go on", ("go", 0.9), (" on", 0.8), (" and", 0.1), (" on", 0.1), (" and", 0.1))
    assert [word.text for word in page.blocks[0].confidence.words] == ["go", "on"]
    assert page.confidence.minimum == pytest.approx(0.8)


def test_tokens_of_another_text_change_nothing() -> None:
    page = scored("one two", ("token_id:7", 0.5), ("token_id:9", 0.5))
    assert page.confidence is None and page.blocks == parse_blocks("one two")


@given(st.text(alphabet='ab <>/td="字\n\ufffd|', max_size=60), st.integers(1, 5))
def test_words_cover_the_text_and_lie_where_they_say(text: str, size: int) -> None:
    tokens = [(text[i : i + size], -0.1) for i in range(0, len(text), size)]
    page = with_confidence(Page(1, "ok", text=text, blocks=parse_blocks(text)), tokens)
    blocks = [placed.block for placed in placed_blocks(text)]
    assert tuple(blocks) == parse_blocks(text)
    words = [word for block in page.blocks if block.confidence for word in block.confidence.words]
    assert all(text[word.start : word.start + len(word.text)] == word.text for word in words)
    if "\ufffd" not in text and "<" not in text:
        assert "".join(word.text for word in words) == "".join(text.split())


def test_places_are_those_of_the_text_with_its_outer_space() -> None:
    text = "  \n" + LAYOUT
    for placed in placed_blocks(text):
        assert text[slice(*placed.content)].strip() == placed.block.content.strip()
        assert text[slice(*placed.label)] == placed.block.label


def test_words_are_found_again_in_what_was_made_of_them() -> None:
    said = [("#", 0.1), ("Cost", 0.9), ("$5", 0.8), ("a", 0.4), ("b", 0.6), ("end", 0.7)]
    markdown = "Cost ![](img-0.png) \\$5 x end"
    found = words_in(markdown, [Word(text, 0, confidence) for text, confidence in said])
    assert [(word.text, word.confidence) for word in found] == [
        ("Cost", 0.9),
        ("\\$5", 0.8),
        ("x", pytest.approx(0.5)),
        ("end", 0.7),
    ]
    assert all(markdown[w.start : w.start + len(w.text)] == w.text for w in found)


def test_the_record_holds_it_and_gives_it_back() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    page = scored("one two", ("one", 0.5), (" two", 0.75))
    record = json.loads(json.dumps(page_record(page)))
    assert record["confidence"] == {"mean": 0.625, "minimum": 0.5}
    assert record["blocks"][0]["confidence"]["words"][1] == {
        "text": "two",
        "start": 4,
        "confidence": 0.75,
    }
    again = page_from_record(record)
    assert json.loads(json.dumps(page_record(again))) == record
    assert (again.confidence, again.blocks) == (page.confidence, page.blocks)
    schema = json.loads(SCHEMA.read_text())
    part = {**schema["$defs"]["page"], "$defs": schema["$defs"]}
    jsonschema.validate(json.loads(json.dumps(full_record(page, str))), part)
    plain = page_record(Page(1, "ok", text="a", blocks=parse_blocks("a")))
    assert "confidence" not in plain and "confidence" not in plain["blocks"][0]


def test_what_is_read_back_is_what_was_there_to_the_last_digit() -> None:
    page = scored("one two three", ("one", 0.123456789), (" two", 1 / 3), (" three", 2 / 7))
    again = page_from_record(json.loads(json.dumps(page_record(page))))
    assert (again.confidence, again.blocks) == (page.confidence, page.blocks)
