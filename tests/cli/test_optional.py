"""`--ray` with and without an address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import typer

from vllm_dsocr.cli.lazy import APP
from vllm_dsocr.cli.optional import RayCommand, is_address

app = typer.Typer(**APP)
seen: list[tuple[str | None, list[str]]] = []


@app.command(cls=RayCommand)
def command(paths: list[str], ray: Annotated[str | None, typer.Option()] = None) -> None:
    """Notes what it was given."""
    seen.append((ray, paths))


@pytest.mark.parametrize(
    ("words", "address", "paths"),
    [
        ("--ray scans", "any", ["scans"]),
        ("scans --ray", "any", ["scans"]),
        ("--ray 10.0.0.1:6379 scans", "10.0.0.1:6379", ["scans"]),
        ("--ray local a.pdf b.pdf", "local", ["a.pdf", "b.pdf"]),
        ("--ray=auto scans", "auto", ["scans"]),
        ("--ray s3://bucket/in", "any", ["s3://bucket/in"]),
        ("scans", None, ["scans"]),
    ],
)
def test_an_address_may_be_left_out_before_a_path(
    words: str, address: str | None, paths: list[str]
) -> None:
    typer.main.get_command(app).main(words.split(), standalone_mode=False)
    assert seen.pop() == (address, paths)


def test_a_file_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_address("scan:1")
    (tmp_path / "scan:1").write_text("")
    assert not is_address("scan:1")
