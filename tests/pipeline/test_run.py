"""Conversions of real files, with an engine whose answers depend on the page alone."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

from tests.fake_engine import FakeEngine, grounded
from tests.page.pdfs import encrypted_pdf, image_pdf, page_image
from vllm_dsocr.engine import Completion, EngineError, EngineLost, Request
from vllm_dsocr.page.pdf import PdfFile
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import InputFile, find_inputs
from vllm_dsocr.pipeline.run import Conversion, Event
from vllm_dsocr.pipeline.settings import Effort, ReadSettings

pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

SETTINGS = ReadSettings("fake", dpi=72)


def _convert(
    out: Path,
    files: list[InputFile],
    engine: FakeEngine | None = None,
    output: OutputSettings | None = None,
    settings: ReadSettings = SETTINGS,
    effort: Effort | None = None,
) -> tuple[list[Event], list[Event]]:
    """Summaries and events of a run."""
    events: list[Event] = []
    conversion = Conversion(
        engine or FakeEngine(), settings, output or OutputSettings(), out, events.append, effort
    )
    return asyncio.run(conversion.run(files)), events


def _tree(folder: Path) -> dict[str, bytes]:
    """Everything a run is judged by: all files but the timings."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("timings.jsonl", ".dsocr.lock")
    }


def _document(out: Path, name: str) -> dict[str, Any]:
    return json.loads((out / name / "document.json").read_text("utf-8"))


@pytest.fixture
def pdf(tmp_path: Path) -> InputFile:
    return InputFile(image_pdf(tmp_path / "a.pdf", 7), "a.pdf")


def test_every_page_is_there_in_order(tmp_path: Path, pdf: InputFile) -> None:
    summaries, events = _convert(tmp_path / "out", [pdf])
    assert summaries == [
        {
            "document": "a.pdf",
            "statuses": {"ok": 7},
            "failed": False,
            "in_use": False,
            "reason": None,
        }
    ]
    document = _document(tmp_path / "out", "a.pdf")
    assert [page["page"] for page in document["pages"]] == [1, 2, 3, 4, 5, 6, 7]
    assert len({page["text"] for page in document["pages"]}) == 7
    assert document["pages"][0]["size_points"] == [120, 160]
    assert [event["event"] for event in events[:4]] == ["counting", "start", "loading", "ready"]
    assert events[1] == {"event": "start", "documents": 1, "pages": 7}


def test_all_formats_are_written(tmp_path: Path, pdf: InputFile) -> None:
    formats = ("md", "json", "html", "report", "layout", "layout-pdf")
    _convert(tmp_path / "out", [pdf], output=OutputSettings(formats=formats))
    folder = tmp_path / "out" / "a.pdf"
    markdown = (folder / "document.md").read_text("utf-8")
    assert markdown.count("# Page ") == 7
    assert "![](images/0007-0.png)" in markdown
    assert Image.open(folder / "images" / "0007-0.png").size == (59, 79)
    assert (folder / "document.html").read_text("utf-8").count("data:image/png") == 7
    assert (folder / "report.html").read_text("utf-8").count("data:image/jpeg") == 7
    assert len(list((folder / "layout").glob("*.png"))) == 7
    layout = PdfFile(folder / "layout.pdf")
    assert (layout.num_pages, layout.size_points(7)) == (7, (120, 160))
    drawn = Image.open(folder / "layout" / "0007.png")
    difference = ImageChops.difference(layout.image(7, dpi=72), drawn)
    assert max(ImageStat.Stat(difference).mean) < 4


def test_two_runs_give_the_same_bytes(tmp_path: Path, pdf: InputFile) -> None:
    output = OutputSettings(formats=("md", "json", "html", "report", "layout", "layout-pdf"))
    for name in ("one", "two"):
        _convert(tmp_path / name, [pdf], output=output)
    assert _tree(tmp_path / "one") == _tree(tmp_path / "two")


def test_no_more_pages_at_a_time_than_the_engine_wants(tmp_path: Path, pdf: InputFile) -> None:
    engine = FakeEngine(max_in_flight=2)
    _convert(tmp_path / "out", [pdf], engine)
    assert engine.most_at_a_time == 2


def test_a_finished_run_does_nothing(tmp_path: Path, pdf: InputFile) -> None:
    _convert(tmp_path / "out", [pdf])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    engine = FakeEngine()
    summaries, events = _convert(tmp_path / "out", [pdf], engine)
    assert (engine.requests, engine.times_entered) == ([], 0)
    assert summaries[0]["statuses"] == {"ok": 7}
    assert events[-1]["kept"] is True
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}


def test_other_settings_content_or_pages_are_other_work(tmp_path: Path, pdf: InputFile) -> None:
    out = tmp_path / "out"
    _convert(out, [pdf], output=OutputSettings(PageRanges.parse("1-3")))
    engine = FakeEngine()
    _convert(out, [pdf], engine)
    assert len(engine.requests) == 4
    _convert(out, [pdf], engine := FakeEngine(), settings=ReadSettings("fake", "free", dpi=72))
    assert len(engine.requests) == 7
    image_pdf(pdf.path, 2, size=(200, 200))
    _convert(out, [pdf], engine := FakeEngine())
    assert len(engine.requests) == 2
    assert len(_document(out, "a.pdf")["pages"]) == 2


def test_another_format_needs_no_engine_requests(tmp_path: Path, pdf: InputFile) -> None:
    _convert(tmp_path / "out", [pdf], output=OutputSettings(formats=("md",)))
    engine = FakeEngine()
    _convert(tmp_path / "out", [pdf], engine, OutputSettings(formats=("json",)))
    assert engine.requests == []
    assert len(_document(tmp_path / "out", "a.pdf")["pages"]) == 7


def test_a_lost_engine_stops_the_run_and_the_next_goes_on(tmp_path: Path, pdf: InputFile) -> None:
    def answer(request: Request) -> Completion:
        if len(dying.requests) > 4:
            raise EngineLost("the server is gone")
        return grounded(request)

    dying = FakeEngine(answer, max_in_flight=1)
    with pytest.raises(EngineLost, match="the server is gone"):
        _convert(tmp_path / "out", [pdf], dying)
    engine = FakeEngine()
    _convert(tmp_path / "out", [pdf], engine)
    assert len(engine.requests) == 3
    _convert(tmp_path / "straight", [pdf])
    assert _tree(tmp_path / "out") == _tree(tmp_path / "straight")


def test_a_page_the_engine_refused_is_tried_again(tmp_path: Path, pdf: InputFile) -> None:
    def refuse(request: Request) -> Completion:
        if request.seed == 3:
            raise EngineError("not now")
        return grounded(request)

    summaries, _ = _convert(tmp_path / "out", [pdf], FakeEngine(refuse))
    assert summaries[0]["statuses"] == {"failed": 1, "ok": 6}
    assert summaries[0]["reason"] == "page 3 could not be read: not now"
    engine = FakeEngine()
    summaries, _ = _convert(tmp_path / "out", [pdf], engine)
    assert (len(engine.requests), summaries[0]["statuses"]) == (1, {"ok": 7})


def _mixed_folder(folder: Path) -> Path:
    """Two good files among everything that can be wrong with one."""
    (folder / "more").mkdir(parents=True)
    page_image(1).save(folder / "good.png")
    image_pdf(folder / "more" / "good.pdf", 2)
    data = (folder / "good.png").read_bytes()
    (folder / "truncated.png").write_bytes(data[: len(data) * 2 // 3])
    (folder / "locked.pdf").write_bytes(encrypted_pdf())
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.pdf").write_text("Dear reader,\nthis is no PDF.\n")
    Image.new("1", (30_000, 30_000)).save(folder / "huge.png")
    return folder


def test_bad_files_have_their_reason_and_stop_nothing(tmp_path: Path) -> None:
    files = find_inputs([_mixed_folder(tmp_path / "in"), tmp_path / "missing.pdf"]).files
    summaries, _ = _convert(tmp_path / "out", files)
    reasons = {summary["document"]: summary["reason"] for summary in summaries}
    statuses = {summary["document"]: summary["statuses"] for summary in summaries}
    assert statuses.pop("good.png") == {"ok": 1}
    assert statuses.pop("more/good.pdf") == {"ok": 2}
    pages = {name: statuses.pop(name) for name in ("truncated.png", "empty.png", "huge.png")}
    assert all(found == {"failed": 1} for found in pages.values())
    assert all(found == {} for found in statuses.values())
    failed = {summary["document"] for summary in summaries if summary["failed"]}
    assert failed == {"locked.pdf", "text.pdf", "missing.pdf"}
    expected = {
        "truncated.png": "truncated",
        "locked.pdf": "needs a password",
        "empty.png": "empty (0 bytes)",
        "text.pdf": "no PDF at all",
        "huge.png": "too many pixels",
        "missing.pdf": "No such file",
    }
    for name, words in expected.items():
        assert words in reasons[name]
        assert "\n" not in reasons[name]
    assert reasons["good.png"] is None
    assert not (tmp_path / "out" / "locked.pdf").exists()
    assert _document(tmp_path / "out", "truncated.png")["pages"][0]["status"] == "failed"


def test_bad_files_are_not_tried_again(tmp_path: Path) -> None:
    files = find_inputs([_mixed_folder(tmp_path / "in")]).files
    first, _ = _convert(tmp_path / "out", files)
    engine = FakeEngine()
    second, _ = _convert(tmp_path / "out", files, engine)
    assert engine.times_entered == 0
    assert second == first


def test_what_a_killed_run_left_half_written_is_cleared(tmp_path: Path, pdf: InputFile) -> None:
    _convert(tmp_path / "straight", [pdf])
    folder = tmp_path / "out" / "a.pdf"
    for name in ("pages", "images"):
        (folder / name).mkdir(parents=True)
    (folder / "pages" / "0002.json").write_text('{"key": "cut o')
    (folder / "pages" / "0003.json.tmp").write_text("{")
    (folder / "images" / "0004-7.png").write_bytes(b"of other settings")
    (folder / "document.md.tmp").write_text("half")
    _convert(tmp_path / "out", [pdf])
    assert _tree(tmp_path / "out") == _tree(tmp_path / "straight")


def test_hostile_tags_do_nothing_and_stay_in_the_record(tmp_path: Path) -> None:
    page_image(0).save(tmp_path / "a.png")
    victim = tmp_path / "touched"
    code = f"__import__('os').system('touch {victim}')"
    text = f"<|ref|>image<|/ref|><|det|>[[{code}]]<|/det|><script>alert(1)</script>"
    engine = FakeEngine(lambda request: Completion(text, "stop", 9))
    _convert(tmp_path / "out", find_inputs([tmp_path / "a.png"]).files, engine)
    assert not victim.exists()
    page = _document(tmp_path / "out", "a.png")["pages"][0]
    assert page["text"] == text
    assert code in page["blocks"][0]["tag"]
    markdown = (tmp_path / "out" / "a.png" / "document.md").read_text("utf-8")
    assert "alert(1)" in markdown
    assert "touch" not in markdown
    assert "<script>alert" not in (tmp_path / "out" / "a.png" / "document.html").read_text("utf-8")


def test_no_threads_are_left(tmp_path: Path, pdf: InputFile) -> None:
    _convert(tmp_path / "out", [pdf])
    assert not [t for t in threading.enumerate() if t.name.startswith("dsocr-pages")]
