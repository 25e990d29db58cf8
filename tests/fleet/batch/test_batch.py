"""The parts of a conversion on Ray that need no cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray.data", reason="pip install 'vllm-dsocr[ray]'")

from tests.fake_engine import FakeEngine  # noqa: E402
from tests.page.pdfs import page_image  # noqa: E402
from vllm_dsocr.document.blocks import Page  # noqa: E402
from vllm_dsocr.document.record import page_record  # noqa: E402
from vllm_dsocr.engine import Completion, EngineLost, Request  # noqa: E402
from vllm_dsocr.fleet.batch import read as reading  # noqa: E402
from vllm_dsocr.fleet.batch.cluster import NoCluster, _of_cpus, cluster  # noqa: E402
from vllm_dsocr.fleet.batch.draw import _file, file_columns  # noqa: E402
from vllm_dsocr.fleet.batch.ledger import Ledger  # noqa: E402
from vllm_dsocr.fleet.batch.read import PageReader, Read  # noqa: E402
from vllm_dsocr.fleet.batch.rows import Row, rows_of, table  # noqa: E402
from vllm_dsocr.fleet.batch.sources import at_hand, find_sources  # noqa: E402
from vllm_dsocr.hosts import EngineChoice  # noqa: E402
from vllm_dsocr.page.source import PageError  # noqa: E402
from vllm_dsocr.pipeline.files import take_lock  # noqa: E402
from vllm_dsocr.pipeline.finish import OutputSettings  # noqa: E402
from vllm_dsocr.pipeline.inputs import InputFile, read_lists  # noqa: E402
from vllm_dsocr.pipeline.settings import ReadSettings  # noqa: E402
from vllm_dsocr.pipeline.work import Work  # noqa: E402

WORK = Work(ReadSettings("fake"), OutputSettings())


class Here:
    """An actor's handle whose actor is this process."""

    def __init__(self, actor: Ledger) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)

        class Call:
            @staticmethod
            async def remote(*arguments: Any) -> Any:
                return method(*arguments)

        return Call


def _drawn(number: int, folder: Path) -> Row:
    image = page_image(number)
    page = Page(number, "failed", image.width, image.height)
    facts = {"name": "a.pdf", "key": f"key-{number}", "spare": "", "page": page_record(page)}
    (folder / "a.pdf" / "pages").mkdir(parents=True, exist_ok=True)
    (folder / "a.pdf" / "images").mkdir(exist_ok=True)
    return Row(0, "drawn", number, facts, image.tobytes())


def _read(out: Path, engine: FakeEngine, ledger: Ledger, *rows: Row) -> list[Row]:
    async def make(choice: EngineChoice) -> FakeEngine:
        return engine

    async def call() -> list[Row]:
        reader = PageReader(Read(WORK, EngineChoice(), out, Here(ledger)))
        return list(rows_of(await reader(table(list(rows)))))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "make_engine", make)
        return asyncio.run(call())


def test_rows_keep_their_order_and_images_go_no_further(tmp_path: Path) -> None:
    rows = [_drawn(1, tmp_path), Row(0, "end", 0, {"numbers": [1, 2]}), _drawn(2, tmp_path)]
    done = _read(tmp_path, FakeEngine(), Ledger(tmp_path), *rows)
    assert [(row.kind, row.page) for row in done] == [("page", 1), ("end", 0), ("page", 2)]
    assert [row.facts.get("status") for row in done] == ["ok", None, "ok"]
    assert not any(row.image for row in done)


def test_what_a_dead_actor_recorded_is_not_read_again(tmp_path: Path) -> None:
    ledger, row = Ledger(tmp_path), _drawn(1, tmp_path)
    first, second = FakeEngine(), FakeEngine()
    before = _read(tmp_path, first, ledger, row)
    after = _read(tmp_path, second, ledger, row, _drawn(2, tmp_path))
    assert (len(first.requests), len(second.requests)) == (1, 1)
    assert after[0].facts["status"] == before[0].facts["status"] == "ok"


def test_a_page_at_which_engines_die_has_failed_and_the_others_have_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for _ in range(3):
        ledger.begin(0, 1)
    deadly, other = _read(tmp_path, FakeEngine(), ledger, _drawn(1, tmp_path), _drawn(2, tmp_path))
    assert deadly.facts["status"] == "failed"
    assert deadly.facts["reason"] == "3 engines died while they read it"
    assert other.facts["status"] == "ok"


def test_no_engine_is_a_row_that_ends_the_run(tmp_path: Path) -> None:
    def refuse(request: Request) -> Completion:
        raise EngineLost("gone")

    (row,) = _read(tmp_path, FakeEngine(refuse), Ledger(tmp_path), _drawn(1, tmp_path))
    assert (row.kind, row.facts) == ("lost", {"reason": "gone"})


def test_a_task_that_is_run_again_finds_what_the_first_one_found(tmp_path: Path) -> None:
    ledger, file = Ledger(tmp_path), InputFile(tmp_path / "a.png", "a.png")
    assert ledger.claim(0, file, "1") == ledger.claim(0, file, "1") == {"name": "a.png"}
    assert ledger.remember(0, {"known": {1}}) == ledger.remember(0, {"known": {1, 2}})
    assert "another run is writing" in ledger.claim(1, file, "1")["in_use"]
    ledger.release(0)
    lock = take_lock(tmp_path / "a.png")
    assert lock is not None
    lock.release()


def test_files_travel_whatever_their_names_are(tmp_path: Path) -> None:
    file = InputFile(tmp_path / "r\udce9sum\udce9.png", "r\udce9sum\udce9.png", "", PageError("no"))
    found = _file(file_columns(3, file))
    assert (found.path, found.name, str(found.error)) == (file.path, file.name, "no")


def test_what_fsspec_reads_is_listed_and_fetched(tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    page_image(1).save(tmp_path / "in" / "sub" / "a.png")
    for name in ("notes.docx", ".hidden.png"):
        (tmp_path / "in" / name).write_bytes(b"x")
    inputs = find_sources([f"file://{tmp_path}/in", f"file://{tmp_path}/gone"], tmp_path / "out")
    assert [file.name for file in inputs.files] == ["sub/a.png", "gone"]
    with at_hand(inputs.files[0]) as file:
        assert file.path.read_bytes() == (tmp_path / "in" / "sub" / "a.png").read_bytes()
        assert file.identity == f"file://{tmp_path}/in/sub/a.png"
    assert not file.path.exists()
    with pytest.raises(PageError, match="no file with pages"), at_hand(inputs.files[1]):
        pass


def test_a_list_stands_for_its_lines(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.pdf\n\ns3://bucket/in\n")
    page_image(1).save(tmp_path / "page.png")
    (tmp_path / "page.png").rename(picture := tmp_path / "page.txt")
    sources = [str(tmp_path / "list.txt"), str(picture), "b.txt"]
    assert read_lists(sources) == ["a.pdf", "s3://bucket/in", str(picture), "b.txt"]


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_drawing_always_finds_room(cpus: float, workers: int) -> None:
    shares = _of_cpus(cpus, 2, workers)
    per_node = -(-workers // 2)
    assert shares.cpus > 0
    assert per_node * shares.cpus + shares.draw_cpus <= cpus + 1e-6
    assert shares.cpus < 1 or shares.cpus == int(shares.cpus)  # as Ray wants it


def test_nobody_at_the_address_is_said_at_once() -> None:
    with (
        pytest.raises(NoCluster, match=r"no Ray cluster at 127\.0\.0\.1:1"),
        cluster("127.0.0.1:1"),
    ):
        pass
