"""What a person asked for -> the settings that decide a page's text, and the key that names them.

Whatever changes the text of a page is in the key; what only changes how often a page is tried or
how it is written is not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from vllm_dsocr.config import ALPHAS
from vllm_dsocr.engine import Request
from vllm_dsocr.page.pdf import DEFAULT_DPI
from vllm_dsocr.page.prompt import task_prompt

if TYPE_CHECKING:
    from PIL import Image

_KEY_FORMAT = 2  # raise it when the same settings would give another record

Again = Literal["unanswered", "failed", "all"]


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How pages are read.

    task: a name of TASKS, with the text to look for behind it where it takes one: "locate a stamp".
    model: what names the weights.  mode, max_tokens: None leaves them to the engine.
    dpi: of PDF pages.  alpha: see `config.PageOptions`.  confidence: whether words have theirs.
    adapter: name of a LoRA adapter, which `model` then tells apart from others of that name.
    """

    model: str
    task: str = "markdown"
    mode: str | None = None
    dpi: float = DEFAULT_DPI
    max_tokens: int | None = None
    alpha: str = ALPHAS[0]
    confidence: bool = False
    adapter: str | None = None

    @property
    def prompt(self) -> str:
        """The trained prompt of the task. Raises PromptError."""
        name, _, text = self.task.strip().partition(" ")
        return task_prompt(name, text.strip())

    @property
    def task_name(self) -> str:
        return self.task.strip().partition(" ")[0]

    def request(self, image: Image.Image, number: int) -> Request:
        """What the engine is asked for page `number`. Raises PromptError."""
        return Request(
            image,
            self.prompt,
            self.mode,
            self.max_tokens,
            seed=number,
            logprobs=self.confidence,
            adapter=self.adapter,
        )

    def facts(self, is_pdf: bool = True) -> dict[str, Any]:
        """What decides a page's record, as JSON values."""
        facts = asdict(self)
        if not is_pdf:
            del facts["dpi"]  # pictures are taken as they are
        for name in ("confidence", "adapter"):  # pages that were read before there were such stay
            if not facts[name]:
                del facts[name]
        return facts

    def page_key(self, content_hash: str, number: int, is_pdf: bool = True) -> str:
        """Names a page's record: the same file content, page and settings give the same key."""
        facts = [_KEY_FORMAT, content_hash, number, self.facts(is_pdf)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for a page that does not come out well, and when the run gives up.

    retries: other settings to try.  timeout: seconds for all tries of a page together, None for no
    bound.  auto_rotate: whether the other three orientations are tried.  text_layer: whether a
    PDF's own text stands in for a page that failed.  max_failures: pages in a row without an answer
    that end the run, 0 for never.  again: which recorded pages are read once more: those that got
    no answer, all that are not ok, or all.
    """

    retries: int = 4
    timeout: float | None = None
    auto_rotate: bool = False
    text_layer: bool = False
    max_failures: int = 10
    again: Again = "unanswered"


DEFAULT_EFFORT = Effort()
