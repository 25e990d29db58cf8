"""The reader's alphabet: one token per byte plus DeepSeek-OCR's special tokens -> tokenizer files.

A byte-level tokenizer without merges in the official file layout: any text can be encoded, and a
printed ASCII character is exactly one token. Knows nothing of models or pages.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from vllm_dsocr.config import BOS_TOKEN, EOS_TOKEN, IMAGE_TOKEN, MARKUP_TOKENS, PAD_TOKEN

CONTROL_TOKENS = (BOS_TOKEN, EOS_TOKEN, PAD_TOKEN)  # ids 0, 1, 2 as in the published tokenizer
BOS_ID, EOS_ID, PAD_ID = range(3)
FIRST_BYTE_ID = len(CONTROL_TOKENS)
CHAT_TOKENS = ("<|User|>", "<|Assistant|>")
EXTRA_TOKENS = (IMAGE_TOKEN, *MARKUP_TOKENS, *CHAT_TOKENS)
IMAGE_ID = FIRST_BYTE_ID + 256
VOCAB_SIZE = 320  # rows of the embedding table; the ids above are fewer
SPECIAL_IDS = {token: IMAGE_ID + i for i, token in enumerate(EXTRA_TOKENS)}
_SPECIAL = re.compile("|".join(map(re.escape, SPECIAL_IDS)))


def encode(text: str) -> list[int]:
    """Ids of a text without special tokens; the same ids as the written tokenizer gives."""
    return [byte + FIRST_BYTE_ID for byte in text.encode()]


def encode_markup(text: str) -> list[int]:
    """Ids of a text whose special tokens are one id each."""
    ids, start = [], 0
    for found in _SPECIAL.finditer(text):
        ids += [*encode(text[start : found.start()]), SPECIAL_IDS[found[0]]]
        start = found.end()
    return ids + encode(text[start:])


def decode_markup(ids: list[int]) -> str:
    """Text of `ids` up to the end of the answer, special tokens by name."""
    names = {i: token for token, i in SPECIAL_IDS.items()}
    ids = ids[: ids.index(EOS_ID)] if EOS_ID in ids else ids
    pieces = (
        names[i].encode() if i in names else bytes([i - FIRST_BYTE_ID])
        for i in ids
        if FIRST_BYTE_ID <= i < IMAGE_ID or i in names
    )
    return b"".join(pieces).decode(errors="replace")


def decode(ids: list[int]) -> str:
    """Text of the bytes among `ids`; special tokens are skipped."""
    values = bytes(i - FIRST_BYTE_ID for i in ids if FIRST_BYTE_ID <= i < IMAGE_ID)
    return values.decode(errors="replace")


def build_tokenizer() -> Tokenizer:
    """The tokenizer as the `tokenizers` library runs it."""
    control = {token: i for i, token in enumerate(CONTROL_TOKENS)}
    symbols = {char: FIRST_BYTE_ID + byte for byte, char in enumerate(_byte_characters())}
    tokenizer = Tokenizer(models.BPE(vocab={**control, **symbols}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in CONTROL_TOKENS + EXTRA_TOKENS]
    tokenizer.add_special_tokens(special)
    return tokenizer


def _byte_characters() -> list[str]:
    """The printable stand-in of every byte in byte-level vocabularies, in byte order."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = iter(range(256, 512))
    return [chr(byte if byte in printable else next(hidden)) for byte in range(256)]


def write_tokenizer(folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    build_tokenizer().save(str(folder / "tokenizer.json"))
    names = {"bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "pad_token": PAD_TOKEN}
    chat: dict[str, Any] = {"additional_special_tokens": list(CHAT_TOKENS)}
    write_json(folder / "special_tokens_map.json", {**names, **chat})
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    write_json(folder / "tokenizer_config.json", {**settings, **names, **chat})


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with a newline at the end."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
