"""`infer()` of the official model class: one image file and a prompt in, text (and files) out.

Same arguments, same meaning; the boxes the model writes are parsed, never evaluated. Knows how the
official script samples and what it writes; everything else is elsewhere.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from transformers import PreTrainedTokenizerBase, TextStreamer

from vllm_dsocr.config import EOS_TOKEN, IMAGE_TOKEN, OptionError, PageOptions
from vllm_dsocr.document.blocks import Figure, Page
from vllm_dsocr.document.compression import num_valid_vision_tokens
from vllm_dsocr.document.grounding import parse_blocks
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.page.geometry import TilePlan, plan_tiles
from vllm_dsocr.page.source import open_image
from vllm_dsocr.render.figures import crop_figures, draw_layout
from vllm_dsocr.render.text.official import page_markdown

if TYPE_CHECKING:
    from vllm_dsocr.hf.model import DeepseekOCRForCausalLM

MAX_NEW_TOKENS = 8192
NGRAM_SIZE = 20  # over the whole history, prompt included
NGRAM_SIZE_EVAL = 35


def infer(
    model: DeepseekOCRForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    image_file: str | Path,
    output_path: str | Path,
    options: PageOptions,
    *,
    test_compress: bool,
    save_results: bool,
    eval_mode: bool,
    generation: Mapping[str, Any],
) -> str:
    """See DeepseekOCRForCausalLM.infer."""
    if generation.get("num_return_sequences", 1) != 1:
        raise OptionError("infer gives one text; num_return_sequences is for generate")
    image = open_image(image_file, alpha=options.alpha) if image_file else None
    inputs = _inputs(tokenizer, prompt, image, options)
    beams = generation.get("num_beams", 1) > 1  # written when they are done, not as they come
    streamer = None if eval_mode or beams else _Printer(tokenizer, skip_prompt=True)
    settings = _settings(model, tokenizer, inputs, eval_mode, generation)
    text, num_tokens = _generate(model, tokenizer, inputs, {"streamer": streamer, **settings})
    if beams and not eval_mode:
        print(text)
    if image and test_compress:
        _print_compression(plan_tiles(*image.size, options.resolution), num_tokens)
    if save_results:
        _save(text, image, Path(output_path))
    return text


def _inputs(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    image: Image.Image | None,
    options: PageOptions,
) -> dict[str, Any]:
    if image and IMAGE_TOKEN not in prompt:
        prompt = f"{IMAGE_TOKEN}\n{prompt}"
    return DeepseekOCRProcessor(tokenizer, options)(prompt, [image] if image else [])


def _settings(
    model: DeepseekOCRForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, Any],
    eval_mode: bool,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """How the official script generates, as far as the caller asks for nothing else."""
    if "generation_config" in asked:
        return dict(asked)
    room = model.config.max_position_embeddings - inputs["input_ids"].shape[1]
    eos = tokenizer.convert_tokens_to_ids(EOS_TOKEN)
    official = {
        "do_sample": False,
        "eos_token_id": eos,
        "pad_token_id": eos,
        "max_new_tokens": min(MAX_NEW_TOKENS, room),
        "no_repeat_ngram_size": NGRAM_SIZE_EVAL if eval_mode else NGRAM_SIZE,
    }
    if "max_length" in asked:
        del official["max_new_tokens"]
    return {**official, **asked}


@torch.inference_mode()
def _generate(
    model: DeepseekOCRForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    inputs: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> tuple[str, int]:
    tensors = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in inputs.items()}
    ids = model.generate(**tensors, **settings)
    ids = getattr(ids, "sequences", ids)[0, inputs["input_ids"].shape[1] :]
    ids = ids[: _end(ids.tolist(), tokenizer.convert_tokens_to_ids(EOS_TOKEN))]
    return tokenizer.decode(ids).removesuffix(EOS_TOKEN).strip(), len(ids)


def _end(ids: list[int], eos: int) -> int:
    """How many ids there are up to the end token; beams are padded behind it."""
    return ids.index(eos) + 1 if eos in ids else len(ids)


class _Printer(TextStreamer):
    """Prints text as it comes, without the end token."""

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        super().on_finalized_text(text.replace(EOS_TOKEN, ""), stream_end)


def _print_compression(plan: TilePlan, num_text_tokens: int) -> None:
    valid = num_valid_vision_tokens(plan)
    width, height = plan.size
    print(f"image size: {width} x {height} px")
    print(f"valid image tokens: {valid}")
    print(f"text tokens: {num_text_tokens}")
    print(f"compression ratio: {num_text_tokens / max(1, valid):.2f}")


def _save(text: str, image: Image.Image | None, output_path: Path) -> None:
    """Write the official script's files: `result.mmd`, `images/N.jpg`, `result_with_boxes.jpg`."""
    width, height = image.size if image else (0, 0)
    page = Page(1, "ok", width, height, text=text, blocks=parse_blocks(text))
    output_path.mkdir(parents=True, exist_ok=True)
    markdown = page_markdown(page, _figure_name)
    (output_path / "result.mmd").write_text(markdown, encoding="utf-8")
    if image and any(block.label for block in page.blocks):
        draw_layout(image, page).save(output_path / "result_with_boxes.jpg")
        (output_path / "images").mkdir(exist_ok=True)
        for figure, png in crop_figures(image, page):
            Image.open(io.BytesIO(png)).save(output_path / _figure_name(figure))


def _figure_name(figure: Figure) -> str:
    return f"images/{figure.index}.jpg"
