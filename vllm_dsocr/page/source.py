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

# Not every format Pillow knows: some start other programs (EPS) or are no pictures of pages.
FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 178_956_970  # where Pillow and vLLM refuse too; A0 at 300 dpi has 139 million

_warning_filters = threading.Lock()  # they belong to the process

Source = bytes | str | os.PathLike[str] | Image.Image


class PageError(ValueError):
    """A page that cannot be read; the message is one sentence for the person who sent it."""


def open_image(source: Source, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The first page of an encoded image (bytes), an image file (path) or a PIL image.

    Returns an upright image of mode RGB that needs no file any more. Pixels are counted before
    they are decoded. Raises PageError.
    """
    return next(iter_frames(source, max_pixels))


def iter_frames(source: Source, max_pixels: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Every page of a multi-page TIFF, one at a time; of any other image its first frame only.

    Frames of other formats are animation steps or depth maps, not pages. Raises PageError at the
    first page that cannot be read.
    """
    given = isinstance(source, Image.Image)
    with nullcontext(source) if given else _identify(source) as image:
        several = not given and image.format == "TIFF"
        frames = iter(ImageSequence.Iterator(image) if several else [image])
        while (page := _next_page(frames, max_pixels)) is not None:
            # All frames of a file are one object, which changes as it moves on.
            yield page.copy() if several and page is image else page


def count_frames(source: Source) -> int:
    """How many pages `iter_frames` will give, from headers alone. Raises PageError."""
    with _identify(source) as image:
        if image.format != "TIFF":
            return 1
        try:
            return image.n_frames
        except Exception as error:  # parsers raise nearly anything on damaged headers
            raise PageError(f"the image is damaged: {error}") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """The image in mode RGB, turned as its EXIF orientation says; itself where it already is.

    Alpha is dropped, as the model was trained. Greys of more than 8 bits are scaled, where
    Pillow's own conversion clips them to white. Raises what Pillow raises for damaged data.
    """
    image.load()  # decoding a TIFF already turns it and clears the tag
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = _to_8_bits(image.convert("I"))
    return image if image.mode == "RGB" else image.convert("RGB")


def converts_plainly(data: bytes) -> bool:
    """Whether `upright_rgb` does no more to this encoded image than Pillow's own conversion to RGB.

    Transparency and deep greys it reads in its own way. Looks at the header alone.
    Raises PageError.
    """
    with _identify(data) as image:
        return not image.has_transparency_data and not image.mode.startswith("I")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey to 8-bit, 65535 to 255. Some writers keep 8-bit greys there: those stay."""
    if image.getextrema()[1] > 255:
        image = image.point(lambda value: value * (1 / 257) + 0.5)
    return image.convert("L")


def _identify(source: bytes | str | os.PathLike[str]) -> Image.Image:
    """The image with its size and format known and nothing decoded yet."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with _warning_filters, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            return Image.open(file, formats=FORMATS)
    except Exception as error:  # parsers raise nearly anything on damaged headers
        raise PageError(_why_not(source, error)) from error


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


def _next_page(frames: Iterator[Image.Image], max_pixels: int) -> Image.Image | None:
    try:
        frame = next(frames, None)
        if frame is None:
            return None
        _check_size(frame, max_pixels)
        return upright_rgb(frame)
    except PageError:
        raise
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise PageError(f"the image is damaged or truncated: {error}") from error


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if not width * height:
        raise PageError(f"the image has no pixels ({width}x{height})")
    if width * height > max_pixels:
        raise PageError(
            f"the image has too many pixels: {width}x{height} is more than {max_pixels:,}"
        )
