"""What subcommands are made of: imported when called, arguments of other programs left alone.

Knows no subcommand.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand

# Every `typer.Typer` here is made with these: `app = typer.Typer(**APP)`.
APP: dict[str, Any] = {
    "add_completion": False,
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "rich",
    "context_settings": {"help_option_names": ["-h", "--help"]},
}


def examples(*lines: str) -> str:
    """The end of a subcommand's help; square brackets in the lines are shown as they are."""
    shown = [line.replace("[", r"\[") for line in lines]
    return "\n\n".join(["[bold]Examples[/bold]", *shown])


class LazyCommand(TyperCommand):
    """Stands for `place`, "module:name", and imports it when it is called.

    What is there is a `typer.Typer`, or a function from arguments to an exit code.
    """

    def __init__(self, name: str, place: str, about: str, panel: str | None = None) -> None:
        super().__init__(name, help=about, rich_help_panel=panel)
        self._place = place

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        return self._load().make_context(info_name, args, parent, **extra)

    def _load(self) -> Any:
        module, _, name = self._place.partition(":")
        found = getattr(importlib.import_module(module), name)
        return typer.main.get_command(found if isinstance(found, typer.Typer) else _as_app(found))


class PassThrough(TyperCommand):
    """A command for another program's options: all arguments are in `ctx.args` as they came.

    Only a plain -h or --help among them is taken to be meant for this command.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if self.add_help_option and set(args) & {"-h", "--help"}:
            return super().parse_args(ctx, ["--help"])
        ctx.args = list(args)
        return ctx.args


def _as_app(function: Callable[[Sequence[str]], int]) -> typer.Typer:
    """A subcommand that reads its arguments itself."""
    app = typer.Typer(**APP)

    @app.command(cls=PassThrough, add_help_option=False)
    def run(ctx: typer.Context) -> int:
        try:
            return function(ctx.args)
        except SystemExit as left:  # argparse leaves so after --help and for wrong options
            return left.code if isinstance(left.code, int) else int(left.code is not None)

    return app
