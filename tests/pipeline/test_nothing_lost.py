"""What was read once stays: whatever happens to sources, settings, names and disks afterwards."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fake_engine import FakeEngine, grounded
from tests.page.pdfs import image_pdf, page_image
from vllm_dsocr.engine import Completion, EngineError, EngineLost, Request
from vllm_dsocr.page.ranges import PageRanges
from vllm_dsocr.pipeline.files import CannotWrite
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import find_inputs
from vllm_dsocr.pipeline.run import Conversion, TooManyFailures
from vllm_dsocr.pipeline.settings import Effort, ReadSettings

pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

ROOT = Path(__file__).parents[2]
ALL_FORMATS = ("md", "json", "html")


def _convert(
    out: Path,
    *paths: Path,
    engine: FakeEngine | None = None,
    pages: str = "1-",
    formats: tuple[str, ...] = ALL_FORMATS,
    effort: Effort | None = None,
    **settings: Any,
) -> tuple[list[dict[str, Any]], FakeEngine]:
    """Summaries, and the engine with the requests it got."""
    engine = engine or FakeEngine()
    conversion = Conversion(
        engine,
        ReadSettings("fake", **{"dpi": 72, **settings}),
        OutputSettings(PageRanges.parse(pages), formats),
        out,
        effort=effort,
    )
    return asyncio.run(conversion.run(find_inputs(list(paths), out).files)), engine


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "timings.jsonl"
    }


def _texts(out: Path, name: str) -> list[str]:
    document = json.loads((out / name / "document.json").read_text("utf-8"))
    return [page["text"] for page in document["pages"]]


def _answering(text: str, finish: str = "stop") -> FakeEngine:
    return FakeEngine(lambda request: Completion(text, finish, 9))


def _refuse(request: Request) -> Completion:
    raise EngineError("not now")


def test_pages_out_of_range_poison_nothing(tmp_path: Path) -> None:
    source, out = image_pdf(tmp_path / "a.pdf", 3), tmp_path / "out"
    page_image(5).save(tmp_path / "b.png")
    summaries, engine = _convert(out, source, tmp_path / "b.png", pages="7-9")
    assert engine.requests == []
    assert [summary["statuses"] for summary in summaries] == [{}, {}]
    assert [summary["reason"] for summary in summaries] == ["it has no page in 7-9"] * 2
    assert not (out / "a.pdf").exists()
    summaries, _ = _convert(out, source, tmp_path / "b.png")
    assert [summary["statuses"] for summary in summaries] == [{"ok": 3}, {"ok": 1}]


def test_a_missing_source_touches_nothing(tmp_path: Path) -> None:
    source, out = image_pdf(tmp_path / "a.pdf", 3), tmp_path / "out"
    _convert(out, source)
    before = _tree(out)
    source.rename(tmp_path / "elsewhere.pdf")
    (summary,), _ = _convert(out, source)
    assert summary["failed"]
    assert "No such file" in summary["reason"]
    assert _tree(out) == before


def test_a_source_that_was_damaged_later_touches_nothing(tmp_path: Path) -> None:
    page_image(1).save(source := tmp_path / "a.png")
    _convert(tmp_path / "out", source)
    text = (tmp_path / "out" / "a.png" / "document.md").read_text("utf-8")
    source.write_bytes(source.read_bytes()[:80])
    (summary,), _ = _convert(tmp_path / "out", source)
    assert summary["statuses"] == {"failed": 1}
    assert "stays as it was" in summary["reason"]
    assert (tmp_path / "out" / "a.png" / "document.md").read_text("utf-8") == text
    assert (tmp_path / "out" / "a.png" / "images" / "0001-0.png").exists()


def test_a_run_that_gets_no_answers_leaves_what_is_finished(tmp_path: Path) -> None:
    source, out = image_pdf(tmp_path / "a.pdf", 3), tmp_path / "out"
    _convert(out, source)
    text = (out / "a.pdf" / "document.md").read_text("utf-8")
    (summary,), _ = _convert(out, source, engine=FakeEngine(_refuse), task="free")
    assert summary["statuses"] == {"failed": 3}
    assert (out / "a.pdf" / "document.md").read_text("utf-8") == text
    _, engine = _convert(out, source)
    assert engine.requests == []


def test_out_inside_the_input_is_not_read(tmp_path: Path) -> None:
    page_image(1).save(tmp_path / "a.png")
    out = tmp_path / "out"
    for _ in range(2):
        summaries, _ = _convert(out, tmp_path, formats=("md", "layout"))
        assert [summary["document"] for summary in summaries] == ["a.png"]
    elsewhere = find_inputs([tmp_path], tmp_path / "other")
    assert [file.name for file in elsewhere.files] == ["a.png"]


def test_names_that_are_not_utf8_and_half_characters(tmp_path: Path) -> None:
    name = os.fsdecode(b"r\xe9sum\xe9.png")
    try:
        page_image(1).save(tmp_path / name)
    except OSError:
        pytest.skip("this file system wants UTF-8")
    page_image(2).save(tmp_path / "z.png")
    out = tmp_path / "out"
    engine = _answering("half \ud83d of a pair")
    summaries, _ = _convert(out, tmp_path / name, tmp_path / "z.png", engine=engine)
    assert [summary["statuses"] for summary in summaries] == [{"ok": 1}, {"ok": 1}]
    json.dumps(summaries, ensure_ascii=False).encode()
    assert "half" in (out / name / "document.md").read_text("utf-8")
    _, engine = _convert(out, tmp_path / name, tmp_path / "z.png")
    assert engine.requests == []


def test_a_blank_page_is_not_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (400, 500), "white").save(tmp_path / "a.png")
    (summary,), engine = _convert(tmp_path / "out", tmp_path / "a.png")
    assert (summary["statuses"], engine.requests, engine.times_entered) == ({"ok": 1}, [], 0)
    document = json.loads((tmp_path / "out" / "a.png" / "document.json").read_text("utf-8"))
    assert document["pages"][0]["attempts"][0]["outcome"] == "blank"
    _, engine = _convert(tmp_path / "out2", tmp_path / "a.png", task="describe")
    assert len(engine.requests) == 1


def test_black_on_transparent_reaches_the_model_on_white(tmp_path: Path) -> None:
    seen = []

    def look(request: Request) -> Completion:
        seen.append(request.image.getpixel((0, 0)))
        return grounded(request)

    image = Image.new("RGBA", (100, 100))
    image.paste((200, 0, 0, 255), (20, 20, 60, 60))
    image.save(tmp_path / "a.png")
    _convert(tmp_path / "out", tmp_path / "a.png", engine=FakeEngine(look))
    _convert(tmp_path / "out", tmp_path / "a.png", engine=FakeEngine(look), alpha="drop")
    assert seen == [(255, 255, 255), (0, 0, 0)]


def _two_of_one_name(tmp_path: Path) -> tuple[Path, Path]:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        page_image(ord(folder)).save(tmp_path / folder / "a.png")
    return tmp_path / "x" / "a.png", tmp_path / "y" / "a.png"


def test_files_of_one_name_in_two_runs_both_stay(tmp_path: Path) -> None:
    x, y = _two_of_one_name(tmp_path)
    out = tmp_path / "out"
    (first,), _ = _convert(out, x)
    text = _texts(out, "a.png")
    (second,), _ = _convert(out, y)
    assert first["document"] == "a.png"
    assert second["document"].startswith("a.png~")
    assert _texts(out, "a.png") == text != _texts(out, second["document"])
    (again,), engine = _convert(out, y)
    assert (again["document"], engine.requests) == (second["document"], [])


def test_names_do_not_depend_on_the_order_of_arguments(tmp_path: Path) -> None:
    x, y = _two_of_one_name(tmp_path)
    names = {file.path: file.name for file in find_inputs([x, y]).files}
    assert names == {file.path: file.name for file in find_inputs([y, x]).files}
    assert len(set(names.values())) == 2
    assert len(find_inputs([x, tmp_path / "x", x.parent / ".." / "x" / "a.png"]).files) == 1


def test_a_moved_source_is_known_by_its_content(tmp_path: Path) -> None:
    x, _ = _two_of_one_name(tmp_path)
    _convert(tmp_path / "out", x)
    (tmp_path / "z").mkdir()
    x.rename(tmp_path / "z" / "a.png")
    (summary,), engine = _convert(tmp_path / "out", tmp_path / "z" / "a.png")
    assert (summary["document"], engine.requests) == ("a.png", [])


def test_a_folder_is_of_one_recipe(tmp_path: Path) -> None:
    page_image(1).save(source := tmp_path / "a.png")
    out = tmp_path / "out"
    _convert(out, source, formats=("md", "html"))
    _convert(out, source, formats=("json",))
    assert {"document.md", "document.html", "document.json"} <= set(os.listdir(out / "a.png"))
    _convert(out, source, formats=("json",), task="free", engine=_answering("plain"))
    assert not {"document.md", "document.html"} & set(os.listdir(out / "a.png"))
    assert os.listdir(out / "a.png" / "images") == []


def test_only_what_changes_the_text_is_read_again(tmp_path: Path) -> None:
    page_image(1).save(picture := tmp_path / "a.png")
    pdf = image_pdf(tmp_path / "b.pdf", 2)
    _convert(tmp_path / "out", picture, pdf)
    _, engine = _convert(tmp_path / "out", picture, pdf, effort=Effort(retries=1, timeout=9))
    assert engine.requests == []
    _, engine = _convert(tmp_path / "out", picture, dpi=200)
    assert engine.requests == []
    _, engine = _convert(tmp_path / "out", pdf, dpi=200)
    assert len(engine.requests) == 2
    _, engine = _convert(tmp_path / "out", picture, pdf, dpi=200, effort=Effort(again="all"))
    assert len(engine.requests) == 3


def test_asking_again_for_bad_pages_keeps_the_better_text(tmp_path: Path) -> None:
    source, out, effort = image_pdf(tmp_path / "a.pdf", 3), tmp_path / "out", Effort(retries=0)

    def second_is_cut(request: Request) -> Completion:
        if request.seed == 2:
            return Completion("cut off here", "length", 3)
        return grounded(request)

    _convert(out, source, engine=FakeEngine(second_is_cut), effort=effort)
    _, engine = _convert(out, source, effort=effort)
    assert engine.requests == []
    again = Effort(retries=0, again="failed")
    for worse in (FakeEngine(_refuse), _answering("shorter", "length")):
        (summary,), _ = _convert(out, source, engine=worse, effort=again)
        assert (len(worse.requests), summary["statuses"]) == (1, {"ok": 2, "truncated": 1})
        assert _texts(out, "a.pdf")[1] == "cut off here"
    (summary,), _ = _convert(out, source, effort=again)
    assert summary["statuses"] == {"ok": 3}


def test_a_name_that_cannot_be_written_costs_one_file(tmp_path: Path) -> None:
    page_image(1).save(tmp_path / "a.png")
    page_image(2).save(tmp_path / "b.png")
    out = tmp_path / "out"
    (out / "a.png").mkdir(parents=True)
    (out / "a.png" / "pages").write_text("in the way")
    summaries, _ = _convert(out, tmp_path / "a.png", tmp_path / "b.png")
    assert [summary["failed"] for summary in summaries] == [True, False]
    assert summaries[0]["reason"].startswith("cannot write a.png")
    assert (out / "a.png" / "pages").read_text() == "in the way"


def test_a_full_disk_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    page_image(1).save(tmp_path / "a.png")
    monkeypatch.setattr("vllm_dsocr.pipeline.store.write_atomic", full)
    with pytest.raises(CannotWrite, match="No space left"):
        _convert(tmp_path / "out", tmp_path / "a.png")


def test_a_format_that_fails_costs_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_image(1).save(tmp_path / "a.png")

    def broken(*_: Any) -> None:
        raise KeyError("cell")

    monkeypatch.setattr("vllm_dsocr.pipeline.finish.write_format", broken)
    (summary,), _ = _convert(tmp_path / "out", tmp_path / "a.png")
    assert (summary["failed"], summary["statuses"]) == (True, {"ok": 1})
    assert "KeyError" in summary["reason"]


def test_a_fault_of_the_engine_costs_one_page(tmp_path: Path) -> None:
    def answer(request: Request) -> Completion:
        if request.seed == 2:
            raise AttributeError("choices")
        return grounded(request)

    (summary,), _ = _convert(
        tmp_path / "out", image_pdf(tmp_path / "a.pdf", 3), engine=FakeEngine(answer)
    )
    assert summary["statuses"] == {"failed": 1, "ok": 2}


def test_so_many_failures_in_a_row_end_the_run(tmp_path: Path) -> None:
    source = image_pdf(tmp_path / "a.pdf", 30)
    engine = FakeEngine(_refuse)
    with pytest.raises(TooManyFailures, match="4 pages in a row got no answer.*not now"):
        _convert(tmp_path / "out", source, engine=engine, effort=Effort(max_failures=4))
    assert len(engine.requests) < 12
    (summary,), _ = _convert(tmp_path / "out", source)
    assert summary["statuses"] == {"ok": 30}


def test_a_document_names_what_read_it_whoever_finishes_it(tmp_path: Path) -> None:
    page_image(1).save(tmp_path / "a.png")
    out = tmp_path / "out"
    _convert(out, tmp_path / "a.png")
    whole = _tree(out)
    assert json.loads(whole["a.png/document.json"])["versions"]["fake"] == "1"
    (out / "a.png" / "manifest.json").unlink()  # killed before the document was written
    (out / "a.png" / "document.json").unlink()
    _, engine = _convert(out, tmp_path / "a.png")
    assert engine.times_entered == 0
    assert _tree(out) == whole


def test_the_engine_is_entered_when_a_page_needs_it(tmp_path: Path) -> None:
    _, engine = _convert(tmp_path / "out", tmp_path / "typo.png")
    assert engine.times_entered == 0


def test_the_text_layer_may_stand_in(tmp_path: Path) -> None:
    reportlab = pytest.importorskip("reportlab.pdfgen.canvas")
    canvas = reportlab.Canvas(str(tmp_path / "a.pdf"), pagesize=(200, 200))
    canvas.drawString(20, 100, "Born digital")
    canvas.save()
    effort = Effort(text_layer=True)
    (summary,), _ = _convert(
        tmp_path / "out", tmp_path / "a.pdf", engine=FakeEngine(_refuse), effort=effort
    )
    assert summary["statuses"] == {"text-layer": 1}
    assert "Born digital" in (tmp_path / "out" / "a.pdf" / "document.md").read_text("utf-8")
    (summary,), _ = _convert(tmp_path / "out", tmp_path / "a.pdf", effort=effort)
    assert summary["statuses"] == {"ok": 1}


def test_a_lost_engine_ends_the_run(tmp_path: Path) -> None:
    def lost(request: Request) -> Completion:
        raise EngineLost("gone")

    with pytest.raises(EngineLost):
        _convert(tmp_path / "out", image_pdf(tmp_path / "a.pdf", 2), engine=FakeEngine(lost))


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    page_image(1).save(tmp_path / "a.png")
    page_image(2).save(tmp_path / "scan", "PNG")
    for name in ("a.docx", "b.docx", "README", "c.TXT"):
        (tmp_path / name).write_text("no page")
    inputs = find_inputs([tmp_path])
    assert [file.name for file in inputs.files] == ["a.png", "scan"]
    assert inputs.passed_over == {".docx": 2, "no suffix": 1, ".txt": 1}


@pytest.mark.parametrize("again", ["all", "failed"])
def test_a_run_that_reads_again_and_dies_leaves_nothing_stale(tmp_path: Path, again: str) -> None:
    """What the same command makes of it then is what is in the records, old and new."""
    source, out = image_pdf(tmp_path / "a.pdf", 4), tmp_path / "out"
    _convert(out, source, engine=_answering("It does not end", "length"), effort=Effort(retries=0))
    answers = iter(["New words.", "New words."])

    def dying(request: Request) -> Completion:
        text = next(answers, None)
        if text is None:
            raise EngineLost("gone")
        return Completion(text, "stop", 2)

    with pytest.raises(EngineLost):
        _convert(out, source, engine=FakeEngine(dying, 1), effort=Effort(again=again))
    (out / "a.pdf" / "document.html.tmp").write_text("<p>half a")  # as kill -9 leaves it
    _, engine = _convert(out, source)
    assert not engine.requests
    assert _texts(out, "a.pdf") == ["New words."] * 2 + ["It does not end"] * 2
    assert (out / "a.pdf" / "document.md").read_text("utf-8").count("New words.") == 2
    assert not list(out.rglob("*.tmp"))
    before = _tree(out)
    summaries, _ = _convert(out, source)
    assert _tree(out) == before
    assert "unfinished" not in json.loads(before["a.pdf/manifest.json"])
    assert summaries[0]["statuses"] == {"ok": 2, "truncated": 2}


def test_drawn_pages_are_those_of_the_document(tmp_path: Path) -> None:
    source, out = image_pdf(tmp_path / "a.pdf", 3), tmp_path / "out"
    _convert(out, source, formats=("layout",))
    _convert(out, source, formats=("layout",), pages="2")
    assert [path.name for path in (out / "a.pdf" / "layout").iterdir()] == ["0002.png"]


def test_the_schema_knows_every_attempt(tmp_path: Path) -> None:
    """Blank pages, pages on their sides, and pages that took too long are in the documents."""
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((ROOT / "docs" / "document.schema.json").read_text())
    Image.new("RGB", (200, 280), "white").save(tmp_path / "blank.png")
    page_image(1).save(tmp_path / "a.png")

    async def never(request: Request) -> Completion:
        await asyncio.sleep(60)
        raise AssertionError

    slow = FakeEngine()
    slow.complete = never  # type: ignore[method-assign]
    runs = {
        "turned": (_answering(""), Effort(auto_rotate=True)),
        "slow": (slow, Effort(timeout=0.05)),
    }
    rungs = set()
    for name, (engine, effort) in runs.items():
        out = tmp_path / name
        _convert(out, tmp_path / "a.png", tmp_path / "blank.png", engine=engine, effort=effort)
        for path in out.rglob("document.json"):
            document = json.loads(path.read_text("utf-8"))
            jsonschema.validate(document, schema)
            rungs |= {attempt["rung"] for attempt in document["pages"][0]["attempts"]}
    assert rungs >= {"pixels", "timeout", "rotate-90", "rotate-180", "rotate-270"}


def test_out_may_be_the_folder_of_the_source(tmp_path: Path) -> None:
    """The document gets a name of its own, and the folder can be read as before."""
    page_image(1).save(tmp_path / "a.png")
    page_image(2).save(tmp_path / "b.png")
    for _ in range(2):
        (summary,), _ = _convert(tmp_path, tmp_path / "a.png")
        assert summary["statuses"] == {"ok": 1}
        assert summary["document"].startswith("a.png~")
    summaries, _ = _convert(tmp_path / "out", tmp_path)
    assert [summary["document"] for summary in summaries] == ["a.png", "b.png"]


def test_a_folder_without_pages_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    page_image(1).save(tmp_path / "a.png")
    _convert(tmp_path / "out", tmp_path / "a.png")
    inputs = find_inputs([tmp_path / "empty", tmp_path / "out"], tmp_path / "other")
    assert not inputs.files
    empty, written = inputs.warnings
    assert empty.endswith("empty has no images or PDFs in it")
    assert "what dsocr convert wrote" in written


def test_what_cannot_be_opened_in_a_folder_is_no_silence(tmp_path: Path) -> None:
    """Links to nothing, folders that may not be looked into, pipes: each has its reason."""
    scans = tmp_path / "scans"
    (scans / "closed").mkdir(parents=True)
    page_image(1).save(scans / "closed" / "a.png")
    (scans / "gone.png").symlink_to(tmp_path / "moved.png")
    os.mkfifo(tmp_path / "pipe.pdf")
    arguments = [scans, tmp_path / "pipe.pdf", "-o", tmp_path / "out", "--model", "nothing"]
    words = [sys.executable, "-m", "vllm_dsocr.cli", "convert", *map(str, arguments)]
    (scans / "closed").chmod(0)
    # root may look into everything, unless it gives that up
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv")
        words = [*drop, *words]
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60)
    finally:
        (scans / "closed").chmod(0o755)
    assert done.returncode == 1, done.stderr
    assert "gone.png: cannot open the file: No such file" in done.stderr
    assert "closed: cannot open the file: Permission denied" in done.stderr
    assert "pipe.pdf: it is no file but a pipe" in done.stderr


def test_pages_of_a_tiff_are_counted(tmp_path: Path) -> None:
    frames = [page_image(number) for number in range(3)]
    frames[0].save(tmp_path / "a.tiff", save_all=True, append_images=frames[1:])
    events: list[dict[str, Any]] = []
    conversion = Conversion(
        FakeEngine(), ReadSettings("fake"), OutputSettings(PageRanges.parse("2-")),
        tmp_path / "out", events.append,
    )  # fmt: skip
    asyncio.run(conversion.run(find_inputs([tmp_path / "a.tiff"]).files))
    assert [event["pages"] for event in events if event["event"] == "start"] == [2]
