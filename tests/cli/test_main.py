"""The `dsocr` command itself and `dsocr serve`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vllm_dsocr import __version__
from vllm_dsocr.cli import COMMANDS, main
from vllm_dsocr.cli.serve import MIDDLEWARE, allowed_plugins, serve_command
from vllm_dsocr.config import OFFICIAL_MODEL
from vllm_dsocr.server.flags import take_flags

ROOT = Path(__file__).parents[2]


def test_help_names_every_command(capsys) -> None:
    for arguments in ([], ["--help"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert all(f" {name} " in text for name in COMMANDS)


def test_version(capsys) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dsocr {__version__}\n"


def test_an_unknown_command_is_named(capsys) -> None:
    assert main(["konvert"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("dsocr: No such command 'konvert'. Did you mean 'convert'?")
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys) -> None:
    assert main([name, "--help"]) == 0
    assert f"sage: dsocr {name}" in capsys.readouterr().out


def test_an_unknown_option_is_one_line(capsys) -> None:
    assert main(["convert", "a.png", "-o", "out", "--dip", "3"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("dsocr convert: No such option: --dip")


HELP_WITH_BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "numpy", "PIL", "transformers", "vllm", "openai"}:
            raise ImportError(f"{name} must not be imported here")
sys.meta_path.insert(0, Blocked())
from vllm_dsocr.cli import main
raise SystemExit(main(["--help"]))
"""


def test_help_imports_no_subcommand() -> None:
    command = [sys.executable, "-c", HELP_WITH_BLOCKED]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_serve_has_help_but_passes_every_other_option_on(capsys) -> None:
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
    given = serve_command(arguments)
    assert given[: len(command) + 2] == ["vllm", "serve", *command]
    assert given[len(command) + 2 :] == ["--trust-request-mm-kwargs", "--middleware", MIDDLEWARE]


def test_serve_adds_no_flag_that_was_given_or_refused() -> None:
    for flag in ("--trust-request-mm-kwargs", "--no-trust-request-mm-kwargs"):
        assert serve_command(["m", flag]).count(flag) == 1
        assert len(serve_command(["m", flag])) == len(serve_command(["m"]))


def test_serve_lets_plugins_be_that_would_be_loaded_anyway(monkeypatch) -> None:
    monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    assert {"dsocr", "dsocr_api", "lora_filesystem_resolver"} <= set(allowed_plugins().split(","))
    monkeypatch.setenv("VLLM_PLUGINS", "mine,dsocr")
    assert allowed_plugins() == "mine,dsocr,dsocr_api"


def test_settings_of_the_service_are_taken_out_of_the_arguments() -> None:
    environment, rest = take_flags(
        ["m", "--ocr-max-pages=7", "--port", "1", "--ocr-data", "x"], "ocr"
    )
    assert environment == {"DSOCR_MAX_PAGES": "7", "DSOCR_DATA": "x"}
    assert rest == ["m", "--port", "1"]
    with pytest.raises(ValueError, match="max_pages"):
        take_flags(["--ocr-max-pages", "many"], "ocr")
