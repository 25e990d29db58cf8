"""Checkpoint folder -> tokenizer whose markup survives the default of every OpenAI client.

The checkpoint calls table and box tokens special, and clients ask for text without special tokens.
Here they are ordinary tokens of the same ids; BOS, EOS, padding and image tokens stay special.
Encoding does not change. Knows nothing of prompts: BOS is the renderer's.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from vllm.tokenizers.hf import get_cached_tokenizer

from vllm_dsocr.config import MARKUP_TOKENS


class DeepseekOCRTokenizer:
    """What vLLM's tokenizer registry loads by name."""

    @classmethod
    def from_pretrained(
        cls,
        path_or_repo_id: str | Path,
        *args: Any,
        trust_remote_code: bool = False,
        download_dir: str | None = None,
        **kwargs: Any,
    ) -> PreTrainedTokenizerFast:
        """The tokenizer with vLLM's cache of its properties.

        The class is fixed: the one that the published checkpoint names splits text wrongly under
        transformers 5. So no code of a checkpoint is needed, and none runs.
        """
        tokenizer = PreTrainedTokenizerFast.from_pretrained(
            path_or_repo_id, *args, cache_dir=download_dir, **kwargs
        )
        keep_markup(tokenizer)
        return get_cached_tokenizer(tokenizer)


def keep_markup(tokenizer: PreTrainedTokenizerFast) -> None:
    """Makes the markup tokens ordinary, in place.

    The tokenizers library cannot take the mark back from a token that has it, but reads whatever a
    serialised tokenizer says.
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["special"] and token["content"] not in MARKUP_TOKENS
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
