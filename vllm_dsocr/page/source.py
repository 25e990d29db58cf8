"""Bytes, a path or a PIL image -> upright RGB pages, or one sentence on why not.

Everything that can be wrong with a file ends here, as `PageError`. Knows nothing of tiles,
tensors or models.
"""

from __future__ import annotations

import io
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import nullcontext

from PIL import ExifTags, Image, ImageOps, ImageSequence, UnidentifiedImageError

from vllm_dsocr.config import ALPHAS
from vllm_dsocr.page.sniff import HEAD_BYTES, is_heif

# Not every format Pillow knows: some start other programs (EPS) or are no pictures of pages.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
_HEIF = "HEIF"  # of pillow-heif, which is asked only for such files
MAX_PIXELS = 178_956_970  # where Pillow and vLLM refuse too; A0 at 300 dpi has 139 million

_warning_filters = threading.Lock()  # they belong to the process

Source = bytes | str | os.PathLike[str] | Image.Image


class PageError(ValueError):
    """A page that cannot be read; the message is one sentence for the person who sent it."""


def open_image(
    source: Source, max_pixels: int = MAX_PIXELS, alpha: str | None = ALPHAS[0]
) -> Image.Image:
    """The first page of an encoded image (bytes), an image file (path) or a PIL image.

    Returns an upright image of mode RGB that needs no file any more; with alpha None one of mode
    RGBA where it has transparency. Pixels are counted before they are decoded. Raises PageError.
    """
    return next(iter_frames(source, max_pixels, alpha))


def iter_frames(
    source: Source, max_pixels: int = MAX_PIXELS, alpha: str | None = ALPHAS[0]
) -> Iterator[Image.Image]:
    """Every page of a multi-page TIFF, one at a time; of any other image its first frame only.

    Frames of other formats are animation steps or depth maps, not pages. Raises PageError at the
    first page that cannot be read, ImportError for a format whose library is not installed.
    """
    given = isinstance(source, Image.Image)
    with nullcontext(source) if isinstance(source, Image.Image) else _identify(source) as image:
        several = not given and image.format == "TIFF"
        frames: Iterator[Image.Image] = iter(ImageSequence.Iterator(image) if several else [image])
        while (page := _next_page(frames, max_pixels, alpha)) is not None:
            # All frames of a file are one object, which changes as it moves on.
            yield page.copy() if several and page is image else page


def count_frames(source: Source) -> int:
    """How many pages `iter_frames` will give, from headers alone. Raises PageError."""
    if isinstance(source, Image.Image):
        return 1
    with _identify(source) as image:
        if image.format != "TIFF":
            return 1
        try:
            return int(image.n_frames)  # type: ignore[attr-defined]  # that of a TIFF has it
        except Exception as error:  # parsers raise nearly anything on damaged headers
            raise PageError(f"the image is damaged: {error}") from error


def upright_rgb(image: Image.Image, alpha: str | None = ALPHAS[0]) -> Image.Image:
    """The image in mode RGB, turned as its EXIF orientation says; itself where it already is.

    alpha: see `config.PageOptions`; None keeps transparency, as mode RGBA. Greys of more than 8
    bits are scaled, where Pillow's own conversion clips them to white. Raises what Pillow raises
    for damaged data.
    """
    image.load()  # decoding a TIFF already turns it and clears the tag
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _to_8_bits(image.convert("I"))
    if image.has_transparency_data and alpha != "drop":
        image = image.convert("RGBA")
        return image if alpha is None else _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    """RGBA on white paper, as RGB."""
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def converts_plainly(data: bytes) -> bool:
    """Whether `upright_rgb` does no more to this encoded image than Pillow's own conversion to RGB.

    Transparency and deep greys it reads in its own way. Looks at the header alone.
    Raises PageError.
    """
    with _identify(data) as image:
        try:
            return not image.has_transparency_data and not image.mode.startswith("I")
        except Exception as error:  # a palette that is said to be there
            raise PageError(_damaged(error)) from error


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit, 65535 to 255. Some writers keep 8-bit greys there: those stay."""
    _, highest = image.getextrema()
    if isinstance(highest, int | float) and highest > 255:
        image = image.point(lambda value: value * (1 / 257) + 0.5)
    return image.convert("L")


def _identify(source: bytes | str | os.PathLike[str]) -> Image.Image:
    """The image with its size and format known and nothing decoded yet."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        formats: tuple[str, ...] = FORMATS
        if is_heif(_head(source)):
            _register_heif()
            formats = (_HEIF,)
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            return Image.open(file, formats=formats)
    except ImportError:
        raise
    except Exception as error:  # parsers raise nearly anything on damaged headers
        raise PageError(_why_not(source, error)) from error


def _head(source: bytes | str | os.PathLike[str]) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    with open(source, "rb") as file:
        return file.read(HEAD_BYTES)


def _register_heif() -> None:
    """Teaches Pillow the format, as pillow-heif has it."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImportError("reading HEIC needs: pip install 'vllm-dsocr[heif]'") from error
    pillow_heif.register_heif_opener()


def _why_not(source: bytes | str | os.PathLike[str], error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        if not (source if isinstance(source, bytes) else os.path.getsize(source)):
            return "the image is empty (0 bytes)"
        return f"not an image of a known format ({', '.join(FORMATS)})"
    if isinstance(error, Image.DecompressionBombError):
        return f"the image has too many pixels: {error}"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open {source!s}: {error.strerror}"
    return f"the image is damaged: {error}"


def _next_page(
    frames: Iterator[Image.Image], max_pixels: int, alpha: str | None
) -> Image.Image | None:
    try:
        frame = next(frames, None)
        if frame is None:
            return None
        _check_size(frame, max_pixels)
        return upright_rgb(frame, alpha)
    except PageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise PageError(_damaged(error)) from error


def _damaged(error: Exception) -> str:
    return f"the image is damaged or truncated: {str(error) or 'its parts do not fit together'}"


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if not width * height:
        raise PageError(f"the image has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise PageError(
            f"the image has too many pixels: {width}x{height} is more than {max_pixels:,}"
        )
