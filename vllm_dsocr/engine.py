"""The only seam between pages and a host: a Request goes in, a Completion comes out.

Implemented by `plugin/engine.py` (vLLM in this process), `hf/engine.py` (transformers) and
`server_engine.py` (any OpenAI-compatible server). Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from vllm_dsocr.config import BOS_TOKEN, EOS_TOKEN, IMAGE_TOKEN, PAD_TOKEN
from vllm_dsocr.repetition import MAX_INT, NGramRule

if TYPE_CHECKING:
    from PIL import Image

# Why an answer ended; whatever ended it from outside is "abort", and the text is half a page.
Finish = Literal["stop", "length", "repetition", "abort"]


class EngineError(Exception):
    """This request has no answer, others may; the message is one sentence."""


class EngineFault(EngineError):
    """The engine made a mistake of its own: another one may well answer the same request."""


class NoAdapter(EngineError):
    """The engine does not have the adapter that the request names; another one may."""


class EngineLost(Exception):
    """No request will be answered any more: the server or the engine is gone."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One page to read.

    image: upright, mode RGB.  prompt: as trained, with its <image> tag.
    mode, max_tokens, guard: None leaves the choice to the engine, and tokens that may always repeat
    are the engine's choice in any case.  logprobs: whether the answer says how sure the model was.
    adapter: name of a LoRA adapter that the engine has.
    """

    image: Image.Image
    prompt: str
    mode: str | None = None
    max_tokens: int | None = None
    temperature: float = 0.0
    seed: int = 0
    guard: NGramRule | None = None
    logprobs: bool = False
    adapter: str | None = None


class Token(NamedTuple):
    """A token as text ("" or U+FFFD for part of a character) and the log of its probability.

    The probability is the model's own, before temperature and guard.
    """

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model wrote, markup included, and why it stopped.

    num_vision_tokens: None when the engine cannot tell.  tokens: of the text, in order, where the
    request asked for logprobs and the engine has them.
    """

    text: str
    finish: Finish
    num_text_tokens: int
    num_vision_tokens: int | None = None
    tokens: tuple[Token, ...] = ()


class Engine(Protocol):
    """A host that reads pages. Entering it makes it ready, leaving it frees what it holds.

    model: what names the weights.  max_in_flight: requests it wants at a time.
    versions: what took part, for the record. Both are known once the engine was entered.
    """

    @property
    def model(self) -> str: ...

    @property
    def max_in_flight(self) -> int: ...

    @property
    def versions(self) -> Mapping[str, str]: ...

    async def __aenter__(self) -> Engine: ...

    async def __aexit__(self, *exception: object) -> None: ...

    async def complete(self, request: Request) -> Completion:
        """Raises EngineError when this request, EngineLost when no request can be answered.

        NoAdapter is the EngineError of an adapter that is not there.
        """
        ...


def clean_text(text: str) -> str:
    """The text without the tokens that frame it, which some hosts leave in."""
    for token in (BOS_TOKEN, EOS_TOKEN, PAD_TOKEN, IMAGE_TOKEN):
        text = text.replace(token, "")
    return text


def guard_options(rule: NGramRule) -> dict[str, int]:
    """The rule in the words of vLLM's request field `vllm_xargs`."""
    return {"ngram_size": rule.size, "window_size": rule.window or MAX_INT}
