"""Prompt text -> prompt ids as the model saw prompts in training, for every way into vLLM.

    chat, completions, offline text -> one BOS, stripped text -> ids

The end of a chat whose last message is to be continued is kept as it is.
Prompts given as token ids are taken as they are, but an image tag without its image is refused in
them too. Knows nothing of pixels; prompts with images are checked by the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from traceback import walk_tb
from typing import Any

import aiohttp
import PIL
from vllm.inputs import EngineInput, TextPrompt, TokensPrompt
from vllm.renderers.hf import HfRenderer
from vllm.renderers.inputs import TokPrompt
from vllm.renderers.params import ChatParams, TokenizeParams

from vllm_dsocr.page.prompt import PromptError, expand_placeholders, prompt_ids
from vllm_dsocr.page.source import PageError
from vllm_dsocr.plugin.inputs.loading import check_loading

_CONTINUED = "dsocr_continued"  # key of a rendered prompt, gone before vLLM reads on


class DeepseekOCRRenderer(HfRenderer):
    """vLLM's renderer with the official prompt rules."""

    def render_messages(self, messages: Any, params: ChatParams) -> Any:
        self._check_loading(params)
        with _damaged_images_refused():
            return _marked(super().render_messages(messages, params), params)

    async def render_messages_async(self, messages: Any, params: ChatParams) -> Any:
        self._check_loading(params)
        with _damaged_images_refused():
            return _marked(await super().render_messages_async(messages, params), params)

    def _check_loading(self, params: ChatParams) -> None:
        """Before vLLM's loader sees the settings. Raises OptionError."""
        multimodal = self.model_config.multimodal_config
        check_loading(params.media_io_kwargs, multimodal and multimodal.media_io_kwargs)

    def _can_produce_offsets(self) -> bool:
        return False  # ids no longer map to characters of the text the client sent

    def _tokenize_prompt(self, prompt: TextPrompt, params: TokenizeParams) -> TokensPrompt:
        tokenize, text = super()._tokenize_prompt, prompt["prompt"]
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise PromptError("the prompt is no valid Unicode: it has half of a surrogate pair")
        tail = text[len(text.rstrip()) :] if prompt.pop(_CONTINUED, False) else ""

        def encode(stripped: str) -> list[int]:
            return tokenize({**prompt, "prompt": stripped + tail}, params)["prompt_token_ids"]

        ids = prompt_ids(text, encode, self.get_bos_token_id())
        return self._build_tokens_prompt(ids, prompt)

    def process_for_engine(self, prompt: TokPrompt, *args: Any, **kwargs: Any) -> EngineInput:
        self._check_text_only(prompt)
        return super().process_for_engine(prompt, *args, **kwargs)

    async def process_for_engine_async(
        self, prompt: TokPrompt, *args: Any, **kwargs: Any
    ) -> EngineInput:
        self._check_text_only(prompt)
        return await super().process_for_engine_async(prompt, *args, **kwargs)

    def _check_text_only(self, prompt: TokPrompt) -> None:
        """vLLM asks no processor about prompts without images; theirs are held to the same rules.

        Raises PromptError for image tags, OptionError for options that do not exist.
        """
        if prompt.get("multi_modal_data") or self.mm_processor is None:
            return
        info = self.mm_processor.info
        info.page_options.override(prompt.get("mm_processor_kwargs") or {})
        expand_placeholders(prompt.get("prompt_token_ids", ()), info.image_token_id, counts=())


def _marked(rendered: Any, params: ChatParams) -> Any:
    """(conversation, prompt) with a mark in the prompt where its last message is continued."""
    _, prompt = rendered
    if params.chat_template_kwargs.get("continue_final_message") and "prompt" in prompt:
        prompt[_CONTINUED] = True
    return rendered


@contextmanager
def _damaged_images_refused() -> Iterator[None]:
    """Decoders raise more than the OSError vLLM expects; that too is an answer to the client.

    So are an address that does not answer, a file that the server does not give out and a data URL
    of another kind, for which vLLM would blame itself.
    """
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
        raise PageError(f"the image cannot be fetched: {error or type(error).__name__}") from error
    except (ValueError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, NotImplementedError) or "local files" in str(error):
            raise PageError(f"the image cannot be fetched: {error}") from error
        if not _raised_by_pillow(error):
            raise
        raise PageError(f"the image cannot be read: {error or 'it is damaged'}") from error


def _raised_by_pillow(error: Exception) -> bool:
    """Whatever that was: its parsers trust a header that they have seen."""
    frames = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return bool(frames) and frames[-1].partition(".")[0] == PIL.__name__
