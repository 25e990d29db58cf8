"""Every number and token string of DeepSeek-OCR, once: resolution presets, tower sizes, markup.

Knows nothing of images, tensors or hosts; imports the standard library only.
Figures are those of the published checkpoint and its paper (arXiv 2510.18234).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

ARCHITECTURE = "DeepseekOCRForCausalLM"
OFFICIAL_MODEL = "deepseek-ai/DeepSeek-OCR"

# Token strings. Their ids differ between checkpoints and are always looked up by name.
BOS_TOKEN = "<｜begin▁of▁sentence｜>"
EOS_TOKEN = "<｜end▁of▁sentence｜>"
PAD_TOKEN = "<｜▁pad▁｜>"
IMAGE_TOKEN = "<image>"
GROUNDING_TOKEN = "<|grounding|>"
REF_OPEN, REF_CLOSE = "<|ref|>", "<|/ref|>"
DET_OPEN, DET_CLOSE = "<|det|>", "<|/det|>"
TABLE_CELL_TOKENS = ("<td>", "</td>")
TABLE_TOKENS = (*TABLE_CELL_TOKENS, "<tr>", "</tr>")
MARKUP_TOKENS = (REF_OPEN, REF_CLOSE, DET_OPEN, DET_CLOSE, GROUNDING_TOKEN, *TABLE_TOKENS)

# Repetition guard of the published vLLM recipe; table cells may repeat.
NGRAM_SIZE = 30
WINDOW_SIZE = 90

IGNORE_INDEX = -100  # label of positions that carry no loss

PATCH_SIZE = 16  # pixels per SAM patch side
DOWNSAMPLE_RATIO = 4  # patches per vision token side: two stride-2 convolutions
PAD_COLOR = (127, 127, 127)  # border of padded views

# Edges of what a request may ask for; the largest preset lies on the upper one.
MIN_VIEW_SIZE = 64
MAX_VIEW_SIZE = 1280
MAX_CROPS = 9
SQUASH_UP_TO = 640  # px; up to here an untiled page is squeezed to its view, above it is padded

RESAMPLERS = ("torch", "pillow")
ALPHAS = (
    "white",
    "drop",
)  # what becomes of transparency: paper behind it, or as the official loader


class OptionError(ValueError):
    """An option of a request or checkpoint that cannot be honoured; names the option."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """How a page becomes views, in the words of the official `infer()`.

    base_size: side of the square global view, px.
    image_size: side of a tile, px, in crop mode; without it the official code takes the side of the
        one view from here, so it must equal base_size.
    crop_mode: cut pages wider or higher than image_size into min_crops..max_crops tiles.
    Raises OptionError naming the field that is out of range.
    """

    base_size: int
    image_size: int
    crop_mode: bool
    min_crops: int = 2
    max_crops: int = MAX_CROPS

    def __post_init__(self) -> None:
        for name in ("base_size", "image_size"):
            size = getattr(self, name)
            _require_int(name, size, MIN_VIEW_SIZE, MAX_VIEW_SIZE)
            if size % PATCH_SIZE:
                raise OptionError(f"{name} must be a multiple of {PATCH_SIZE}, got {size}")
        if not isinstance(self.crop_mode, bool):
            raise OptionError(f"crop_mode must be true or false, got {self.crop_mode!r}")
        _require_int("max_crops", self.max_crops, 1, MAX_CROPS)
        _require_int("min_crops", self.min_crops, 1, self.max_crops)
        if not self.crop_mode and self.image_size != self.base_size:
            raise OptionError(
                f"without crop_mode there is one view: image_size ({self.image_size}) "
                f"must equal base_size ({self.base_size})"
            )


def _require_int(name: str, value: object, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} must be an integer, got {value!r}")
    if not low <= value <= high:
        raise OptionError(f"{name} must be between {low} and {high}, got {value}")


MODES: dict[str, Resolution] = {
    "tiny": Resolution(512, 512, crop_mode=False),
    "small": Resolution(640, 640, crop_mode=False),
    "base": Resolution(1024, 1024, crop_mode=False),
    "large": Resolution(1280, 1280, crop_mode=False),
    "gundam": Resolution(1024, 640, crop_mode=True),
    "gundam-m": Resolution(1280, 1024, crop_mode=True),
}
DEFAULT_MODE = "gundam"

RESOLUTION_OPTIONS = tuple(f.name for f in fields(Resolution))
PAGE_OPTIONS = ("mode", *RESOLUTION_OPTIONS, "resampler", "alpha")


def mode_name(resolution: Resolution) -> str | None:
    """The preset's name, or None for a custom resolution."""
    return next((name for name, preset in MODES.items() if preset == resolution), None)


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What a server, a checkpoint or one request may say about page preparation.

    alpha: `white` puts white paper behind transparency; `drop` shows the colours that lie under it,
    often black, as the official loader does.
    """

    resolution: Resolution = MODES[DEFAULT_MODE]
    resampler: str = RESAMPLERS[0]
    alpha: str = ALPHAS[0]

    @classmethod
    def from_checkpoint(cls, processor_config: Mapping[str, Any]) -> PageOptions:
        """The defaults a checkpoint's `processor_config.json` names; its other keys are ignored."""
        return cls().override({k: v for k, v in processor_config.items() if k in PAGE_OPTIONS})

    def override(self, options: Mapping[str, Any]) -> PageOptions:
        """These options with `options` (keys of PAGE_OPTIONS) on top.

        A mode replaces the whole resolution; single fields then change parts of it. Asking for
        crop_mode=False with one size given means one view of that size.
        Raises OptionError naming the offending key.
        """
        unknown = sorted(set(options) - set(PAGE_OPTIONS))
        if unknown:
            raise OptionError(f"unknown option {unknown[0]!r}; known are {', '.join(PAGE_OPTIONS)}")
        resampler = _one_of("resampler", options.get("resampler", self.resampler), RESAMPLERS)
        alpha = _one_of("alpha", options.get("alpha", self.alpha), ALPHAS)
        return PageOptions(_resolution(self.resolution, options), resampler, alpha)

    def to_dict(self) -> dict[str, Any]:
        """Every option but the mode's name, one way of writing for all that mean the same."""
        resolution = {name: getattr(self.resolution, name) for name in RESOLUTION_OPTIONS}
        return {**resolution, "resampler": self.resampler, "alpha": self.alpha}


def _one_of(name: str, value: Any, known: tuple[str, ...]) -> str:
    if value not in known:
        raise OptionError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    return value


def _resolution(base: Resolution, options: Mapping[str, Any]) -> Resolution:
    mode = options.get("mode")
    if mode is not None:
        if not isinstance(mode, str) or mode not in MODES:
            raise OptionError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        base = MODES[mode]
    values = {name: getattr(base, name) for name in RESOLUTION_OPTIONS}
    given = {name: options[name] for name in RESOLUTION_OPTIONS if options.get(name) is not None}
    values.update(given)
    if values["crop_mode"] is False:
        # One view has one size, and the official infer() takes it from image_size.
        source = "base_size" if "base_size" in given and "image_size" not in given else "image_size"
        values["base_size"] = values["image_size"] = values[source]
    return Resolution(**values)


@dataclass(frozen=True, slots=True)
class SamSizes:
    """SAM ViT tower; `pos_size` is the page side the position table was made for, px."""

    width: int = 768
    layers: int = 12
    heads: int = 12
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    downsample_channels: tuple[int, int] = (512, 1024)
    neck_channels: int = 256
    window_size: int = 14
    pos_size: int = 1024


@dataclass(frozen=True, slots=True)
class ClipSizes:
    """CLIP ViT tower; `image_size // patch_size` is the side of its position table."""

    width: int = 1024
    layers: int = 24
    heads: int = 16
    image_size: int = 224
    patch_size: int = 14


@dataclass(frozen=True, slots=True)
class VisionSizes:
    """Both towers and the projector, as `config.json` spells them.

    What the checkpoint leaves out has the official value.
    """

    sam: SamSizes = field(default_factory=SamSizes)
    clip: ClipSizes = field(default_factory=ClipSizes)
    projector_input: int = 2048
    projector_output: int = 1280

    @classmethod
    def from_config(cls, vision: Mapping[str, Any], projector: Mapping[str, Any]) -> VisionSizes:
        """From `vision_config` and `projector_config`, given as mappings.

        Raises OptionError when the projector does not fit the towers.
        """
        width = vision.get("width")
        width = width if isinstance(width, Mapping) else {}
        pos_size = {"pos_size": vision["image_size"]} if "image_size" in vision else {}
        sam = _from_mapping(SamSizes, {**pos_size, **width.get("sam_vit_b", {})})
        clip = _from_mapping(ClipSizes, width.get("clip-l-14-224", {}))
        sizes = cls(sam, clip, projector.get("input_dim", 2048), projector.get("n_embed", 1280))
        features = sam.downsample_channels[-1] + clip.width
        if sizes.projector_input != features:
            raise OptionError(
                f"projector_config.input_dim is {sizes.projector_input}, "
                f"the towers give {features} features"
            )
        return sizes


def _from_mapping(kind: type, values: Mapping[str, Any]) -> Any:
    known = {f.name for f in fields(kind)}
    return kind(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items() if k in known}
    )
