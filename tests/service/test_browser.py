"""The web page as its users have it: in Chromium, over a service of its own.

With DSOCR_PICTURES=docs/images the pictures of the documentation are made anew.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.fake_engine import FakeEngine
from vllm_dsocr.engine import Completion

chromium = pytest.importorskip("tests.service.chromium")
pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="there is no Chromium here")

EXAMPLES = Path(__file__).parents[2] / "examples"
DONE = "document.getElementById('downloads').checkVisibility()"
ANSWER = (EXAMPLES / "layout.txt").read_text()


class Slow(FakeEngine):
    """Progress can be seen."""

    async def complete(self, request):
        await asyncio.sleep(0.2)
        return await super().complete(request)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium.chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(browser, start):
    """The page of a fresh service."""
    browser.open("about:blank")  # the page before has said all it had to
    browser.events.clear()
    engine = Slow(lambda request: Completion(ANSWER, "stop", 20, 111))
    engine.model = "deepseek-ai/DeepSeek-OCR"
    running = start(engine)
    browser.open(f"{running.url}/")
    browser.wait_for("document.getElementById('task').options.length > 0")
    yield browser
    assert browser.complaints() == []
    here = (f"{running.url}/", "data:", f"blob:{running.url}/")
    assert [url for url in browser.requests() if not url.startswith(here)] == []


def shown(page, number: int = 1) -> None:
    """Page `number` is there with its picture."""
    image = f"document.querySelector('[data-number=\"{number}\"] img')"
    page.wait_for(f"{image} && {image}.complete && {image}.naturalWidth > 0")


def picture(page, name: str, tmp_path: Path) -> None:
    folder = Path(os.environ.get("DSOCR_PICTURES", tmp_path))
    page.picture(tmp_path / f"{name}.png")
    with Image.open(tmp_path / f"{name}.png") as image:  # few colors, so that the file is small
        image.convert("RGB").quantize(96).save(folder / f"{name}.png", optimize=True)
    assert (folder / f"{name}.png").stat().st_size < 200_000


def test_a_chosen_file_is_read_beside_its_picture(page, tmp_path):
    page.choose_files("#files", EXAMPLES / "layout.png")
    shown(page)
    page.wait_for(DONE)
    text = page.evaluate("document.querySelector('.text').innerText")
    assert "Intern" in text and "$1,811.43" in text and "Figure 3: Results" in text
    assert page.evaluate("document.querySelectorAll('.text table tr').length") == 4
    assert page.evaluate("document.querySelectorAll('.picture rect').length") == 6
    box, image = (
        page.evaluate(f"document.querySelector('.picture {name}').getBoundingClientRect().toJSON()")
        for name in ("rect", "img")
    )
    # The title's box lies where the title is: 40/999 from the left, to 239/999.
    assert box["left"] == pytest.approx(image["left"] + image["width"] * 40 / 999, abs=3)
    assert box["right"] == pytest.approx(image["left"] + image["width"] * 239 / 999, abs=3)
    assert not page.evaluate("document.getElementById('progress').checkVisibility()")
    names = "[...document.querySelectorAll('#downloads button')].map((b) => b.textContent)"
    assert {"md", "html", "json", "docling"} <= set(page.evaluate(names))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    for dark in (False, True):
        page.dark(dark)
        picture(page, f"web-{'dark' if dark else 'light'}", tmp_path)
    page.dark(False)


def test_a_download_is_the_documents_text(page, tmp_path):
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.choose_files("#files", EXAMPLES / "layout.png")
    page.wait_for(DONE)
    page.evaluate("[...document.querySelectorAll('#downloads button')][0].click()")
    target = tmp_path / "layout.png.md"
    for _ in range(100):
        if target.exists():
            break
        page.evaluate("new Promise((resolve) => setTimeout(resolve, 100))")
    assert "Figure 3: Results" in target.read_text()


def test_pages_of_a_range_come_one_by_one(page, tmp_path):
    from tests.service.documents import pdf

    file = tmp_path / "many.pdf"
    file.write_bytes(pdf(6, (90, 130)))
    page.evaluate("document.getElementById('range').value = '2-3,5'")
    page.choose_files("#files", file)
    page.wait_for(DONE)
    page.evaluate("document.querySelector('[data-number=\"5\"]').scrollIntoView()")
    shown(page, 5)  # pictures out of sight are not fetched
    numbers = "[...document.querySelectorAll('.page')].map((p) => +p.dataset.number)"
    assert page.evaluate(numbers) == [2, 3, 5]
    assert "3 of 3 pages" in page.evaluate("document.getElementById('jobs').innerText")


def test_what_cannot_be_read_says_why(page, tmp_path):
    file = tmp_path / "letter.pdf"
    file.write_bytes(b"Dear all")
    page.choose_files("#files", file)
    page.wait_for("document.getElementById('jobs').innerText.includes('failed')")
    assert "image" in page.evaluate("document.getElementById('fate').innerText")
    assert not page.evaluate(DONE)
    page.evaluate("document.getElementById('range').value = 'x'")
    page.choose_files("#files", EXAMPLES / "layout.png")
    trouble = page.wait_for("document.getElementById('trouble').textContent")
    assert "no range of pages" in trouble


def test_everything_is_reached_by_keyboard_and_seen_to_be(page):
    page.choose_files("#files", EXAMPLES / "layout.png")
    shown(page)
    page.wait_for(DONE)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.call("Page.bringToFront")
    visited = []
    for _ in range(9):
        page.press("Tab")
        visited.append(
            page.evaluate("document.activeElement.id || document.activeElement.textContent")
        )
        outline = (
            "((e) => getComputedStyle(e.id === 'files' ? e.parentElement : e).outlineStyle)"
            "(document.activeElement)"
        )
        assert page.evaluate(outline) in ("solid", "auto"), visited
    assert visited[:5] == ["Skip to the pages", "files", "task", "mode", "range"]
    assert "layout.png" in visited[5] and visited[6] == "md"
    page.evaluate("document.querySelector('#jobs button').focus()")
    page.press("Enter")
    assert page.evaluate("document.activeElement.id") == "document-title"


CONTRASTS = """
[...document.querySelectorAll('h1, h2, h3, p, span, label, button, li, td, figcaption, .text *')]
  .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.data?.trim()))
  .map((e) => {
    let behind = e;
    const back = (e) => getComputedStyle(e).backgroundColor;
    const none = 'rgba(0, 0, 0, 0)';
    while (behind.parentElement && back(behind) === none) behind = behind.parentElement;
    return [e.className || e.tagName, getComputedStyle(e).color, back(behind)];
  })
"""


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_what_is_behind_it(page, dark):
    page.choose_files("#files", EXAMPLES / "layout.png")
    page.wait_for(DONE)
    shown(page)
    page.dark(dark)
    found = page.evaluate(CONTRASTS)
    page.dark(False)
    assert len(found) > 15
    assert [item for item in found if contrast(*item[1:]) < 4.5] == []


def contrast(one: str, other: str) -> float:
    """WCAG's ratio of two colors of CSS."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
