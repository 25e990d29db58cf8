"""Settings as options of a command line: one option per field, named and explained by it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Annotated, Any, get_type_hints

import typer

from vllm_dsocr.server.settings import PREFIX, Settings, parse

PANEL = "The service"
_HINTS = get_type_hints(Settings)


def with_settings(function: Callable[..., int]) -> Callable[..., int]:
    """A command that takes every setting, from one whose last parameter is `settings`.

    Values come from options, else from the environment, else they are the defaults.
    """
    hints = get_type_hints(function, include_extras=True)
    own = [
        parameter.replace(annotation=hints[name])
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "settings"
    ]
    added = [
        _parameter(item.name, item.default, item.metadata["about"]) for item in fields(Settings)
    ]

    @functools.wraps(function)
    def command(**given: Any) -> int:
        texts = {item.name: given.pop(item.name) for item in fields(Settings)}
        try:
            stated = {n: parse(n, _HINTS[n], text) for n, text in texts.items() if text is not None}
            settings = Settings.from_environment(**stated)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from error
        return function(**given, settings=settings)

    every = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *added)]
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    return command


def _parameter(name: str, default: Any, about: str) -> inspect.Parameter:
    kind = _HINTS[name]
    metavar = "A,B,..." if kind == tuple[str, ...] else kind.__name__.upper()
    option = typer.Option(
        f"--{flag(name)}",
        help=f"{about} [dim]({_shown(default)})[/dim]",
        metavar=metavar,
        rich_help_panel=PANEL,
    )
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[str | None, option],
    )


def flag(name: str) -> str:
    """A field's option without its dashes."""
    return name.replace("_", "-")


def take_flags(arguments: Sequence[str], prefix: str) -> tuple[dict[str, str], list[str]]:
    """Takes `--PREFIX-FIELD VALUE` out of another program's arguments.

    Returns environment variables that say the same, and what is left. Raises ValueError.
    """
    names = {f"--{prefix}-{flag(item.name)}": item.name for item in fields(Settings)}
    environment: dict[str, str] = {}
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        option, equals, value = argument.partition("=")
        if option not in names:
            rest.append(argument)
            continue
        if not equals:
            value = next(remaining, "")
        parse(names[option], _HINTS[names[option]], value)
        environment[PREFIX + names[option].upper()] = value
    return environment, rest


def _shown(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(default) or "none"
    return f"{default:,}" if isinstance(default, int) else str(default) or "none"
