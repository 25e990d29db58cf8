"""Several runs at once on one OUT: every page is asked for once, and all is there at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fake_server import Answer, FakeServer, fake_server, page_text
from tests.outside.conftest import Outcome, ended, start, tree
from tests.page.pdfs import image_pdf, page_image

pytestmark = pytest.mark.slow

Dsocr = Callable[..., Outcome]
NUM_PAGES = 26


def _slow(body: dict[str, Any], image: Image.Image) -> Answer:
    time.sleep(0.03)
    return page_text(body, image)


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server(_slow) as running:
        yield running


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scans")
    for number in range(20):
        page_image(number).save(folder / f"{number}.png")
    image_pdf(folder / "a.pdf", 4)
    image_pdf(folder / "b.pdf", 2)
    return folder


@pytest.fixture
def straight(tmp_path: Path, scans: Path, server: FakeServer, dsocr: Dsocr) -> dict[str, bytes]:
    """What one run makes of the scans."""
    assert dsocr("convert", scans, "-o", tmp_path / "one", "--server", server.url).code == 0
    server.bodies.clear()
    return tree(tmp_path / "one")


def _at_once(server: FakeServer, scans: Path, out: Path, *options: tuple[str, ...]) -> list[Any]:
    rest = ["-o", out, "--server", server.url, "--json", "--concurrency", "2"]
    runs = [start("convert", scans, *rest, *more) for more in options]
    return [ended(run) for run in runs]


def test_two_shards(
    tmp_path: Path, scans: Path, server: FakeServer, straight: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    first, second = _at_once(server, scans, out, ("--shard", "1/2"), ("--shard", "2/2"))
    assert (first.code, second.code) == (0, 0)
    assert not first.summaries.keys() & second.summaries.keys()
    assert len(first.summaries) + len(second.summaries) == 22
    assert min(len(first.summaries), len(second.summaries)) > 4
    assert (tree(out), len(server.bodies)) == (straight, NUM_PAGES)


def test_two_runs_without_shards(
    tmp_path: Path, scans: Path, server: FakeServer, straight: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    runs = _at_once(server, scans, out, (), ())
    assert (tree(out), len(server.bodies)) == (straight, NUM_PAGES)
    for run in runs:
        left = [name for name, facts in run.summaries.items() if facts["in_use"]]
        assert run.code == (1 if left else 0)
        assert all(facts["statuses"] for name, facts in run.summaries.items() if name not in left)
    passed_over = [event for run in runs for event in run.events if event["event"] == "in_use"]
    assert all(event["reason"].startswith("another run is writing") for event in passed_over)


def test_a_shard_that_is_killed_leaves_its_documents_to_others(
    tmp_path: Path, scans: Path, server: FakeServer, straight: dict[str, bytes], dsocr: Dsocr
) -> None:
    out = tmp_path / "out"
    rest = ["-o", out, "--server", server.url, "--concurrency", "2"]
    killed = start("convert", scans, *rest, "--shard", "1/2")
    while len(server.bodies) < 3:
        assert killed.poll() is None
        time.sleep(0.005)
    killed.kill()
    killed.communicate()
    assert dsocr("convert", scans, *rest).code == 0
    assert tree(out) == straight
    assert len(server.bodies) <= NUM_PAGES + 4  # what was in flight, or being written


def test_two_sources_of_one_name_at_once(tmp_path: Path, server: FakeServer) -> None:
    out = tmp_path / "out"
    runs = []
    for folder in "xy":
        (tmp_path / folder).mkdir()
        page_image(ord(folder)).save(tmp_path / folder / "a.png")
        arguments = ["-o", out, "--server", server.url, "--json"]
        runs.append(start("convert", tmp_path / folder / "a.png", *arguments))
    names = [name for run in runs for name in ended(run).summaries]
    assert len(set(names)) == 2
    texts = {(out / name / "document.md").read_text() for name in names}
    assert len(texts) == 2
