"""The `dsocr` command itself and `dsocr serve`."""

from __future__ import annotations

import pytest

from vllm_dsocr import __version__
from vllm_dsocr.cli import COMMANDS, main
from vllm_dsocr.cli.serve import serve_command
from vllm_dsocr.config import OFFICIAL_MODEL


def test_help_names_every_command(capsys) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert all(f"  {name} " in text for name in COMMANDS)


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dsocr {__version__}\n"


def test_an_unknown_command_is_named(capsys) -> None:
    assert main(["konvert"]) == 2
    assert "no command 'konvert'; there are convert, serve" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["convert", "view", "train", "lora", "eval", "plan"])
def test_every_command_has_help(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    assert f"usage: dsocr {name}" in capsys.readouterr().out


def test_serve_has_help(capsys) -> None:
    assert main(["serve", "--port", "1", "--help"]) == 0
    assert "vllm serve --help" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        ([], [OFFICIAL_MODEL]),
        (["--port", "8001"], [OFFICIAL_MODEL, "--port", "8001"]),
        (["some/model", "--port", "8001"], ["some/model", "--port", "8001"]),
    ],
)
def test_serve_passes_everything_on(arguments: list[str], command: list[str]) -> None:
    assert serve_command(arguments) == ["vllm", "serve", *command]
