"""A name has one source, a document one writer, and every document is in exactly one shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_dsocr.pipeline.claim import claim
from vllm_dsocr.pipeline.files import InUse
from vllm_dsocr.pipeline.inputs import InputFile, find_inputs
from vllm_dsocr.pipeline.shard import Shard


def _file(folder: Path, name: str = "a.png") -> InputFile:
    return InputFile(folder / name, name)


def test_a_document_has_one_writer_until_it_is_released(tmp_path: Path) -> None:
    out, file = tmp_path / "out", _file(tmp_path)
    first = claim(out, file, "1")
    with pytest.raises(InUse, match=r"another run is writing a\.png"):
        claim(out, file, "1")
    other = claim(out, _file(tmp_path, "b.png"), "2")
    first.release()
    again = claim(out, file, "1")
    assert (again.file.name, other.file.name) == ("a.png", "b.png")


def test_a_name_that_another_run_took_meanwhile_stays_its(tmp_path: Path) -> None:
    """Both runs found the name free when they looked for their files."""
    out = tmp_path / "out"
    x = claim(out, _file(tmp_path / "x"), "1")
    y = claim(out, _file(tmp_path / "y"), "2")
    assert x.file.name == "a.png"
    assert y.file.name.startswith("a.png~")
    assert (x.folder.source, y.folder.source) == (x.file.identity, y.file.identity)
    y.release()
    assert claim(out, _file(tmp_path / "y"), "2").file.name == y.file.name


def test_two_files_of_one_content_are_not_written_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    x, y = (claim(out, _file(tmp_path / folder), "1") for folder in "xy")
    assert x.folder.path != y.folder.path
    for each in (x, y):
        each.release()
    assert claim(out, _file(tmp_path / "x"), "1").folder.path == x.folder.path


def _sources(folder: Path) -> Path:
    for name in ("a.png", "b.png", "c/a.png", "c/d.pdf", "e.tif"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return folder


def test_a_document_is_in_one_shard_wherever_its_folder_is_mounted(tmp_path: Path) -> None:
    here, there = _sources(tmp_path / "here"), _sources(tmp_path / "there")
    found = []
    for folder in (here, there):
        parts = [find_inputs([folder], shard=Shard(i, 3)).files for i in (1, 2, 3)]
        found.append([[file.name for file in part] for part in parts])
    assert found[0] == found[1]
    names = [name for part in found[0] for name in part]
    assert sorted(names) == sorted(file.name for file in find_inputs([here]).files)


def test_shards_of_one_name_differ(tmp_path: Path) -> None:
    """`*/scan.pdf` does not end up on one machine."""
    paths = [tmp_path / str(i) / "scan.pdf" for i in range(40)]
    sizes = [len(find_inputs(paths, shard=Shard(i, 2)).files) for i in (1, 2)]
    assert sum(sizes) == 40
    assert min(sizes) > 8


@pytest.mark.parametrize("text", ["3/2", "0/1", "1/0", "1", "a/b", "-1/2", "1/2/3", ""])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="I/N"):
        Shard.parse(text)
