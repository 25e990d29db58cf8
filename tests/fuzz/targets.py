"""What is fuzzed, by name: each opens what it needs and gives a check of one random case."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from random import Random

from tests.fuzz.files import files
from tests.fuzz.markup import markup
from tests.fuzz.options import options
from tests.fuzz.requests import requests

Target = Callable[[], AbstractContextManager[Callable[[Random], None]]]

TARGETS: dict[str, Target] = {
    "markup": markup,
    "files": files,
    "options": options,
    "requests": requests,
}
