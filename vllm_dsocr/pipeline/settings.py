"""What a person asked for -> the settings that decide a page's text, and the key that names them.

Whatever changes the text of a page is in the key; what only changes how it is written is not.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass

from vllm_dsocr.page.pdf import DEFAULT_DPI
from vllm_dsocr.page.prompt import task_prompt

_KEY_FORMAT = 1  # raise it when the same settings would give another record


@dataclass(frozen=True, slots=True)
class ReadSettings:
    """How pages are read.

    task: a name of TASKS, with the text to look for behind it where it takes one: "locate a stamp".
    model: what names the weights.  mode, max_tokens: None leaves them to the engine.
    retries: how many rungs of the retry ladder a page may climb.
    """

    model: str
    task: str = "markdown"
    mode: str | None = None
    dpi: float = DEFAULT_DPI
    max_tokens: int | None = None
    retries: int = 4

    @property
    def prompt(self) -> str:
        """The trained prompt of the task. Raises PromptError."""
        name, _, text = self.task.strip().partition(" ")
        return task_prompt(name, text.strip())

    @property
    def task_name(self) -> str:
        return self.task.strip().partition(" ")[0]

    def page_key(self, content_hash: str, number: int) -> str:
        """Names a page's record: the same file content, page and settings give the same key."""
        facts = [_KEY_FORMAT, content_hash, number, asdict(self)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
