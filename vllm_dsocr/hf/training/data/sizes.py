"""An image's bytes -> the size of the page it will be, pixels untouched.

PNG may hold its orientation behind the pixels; Pillow decodes them all to get there. Here chunks
are stepped over, and only a file that has such a chunk is opened in full. Knows nothing of tiles.
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import BinaryIO

from PIL import ExifTags, Image

PNG = b"\x89PNG\r\n\x1a\n"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
TURNING = (b"Raw profile type", b"XML:com.adobe.xmp")  # texts Pillow looks for orientation in
LONGEST_KEYWORD = 80  # bytes


def upright_size(image: Path | bytes) -> tuple[int, int]:
    """(width, height) px of the page `open_image` will give. Raises OSError."""
    with io.BytesIO(image) if isinstance(image, bytes) else image.open("rb") as file:
        size = _plain_png_size(file)
        if size:
            return size
        file.seek(0)
        with Image.open(file) as opened:
            # A TIFF states its size turned already.
            on_its_side = opened.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            turned = on_its_side and opened.format != "TIFF"
            return opened.size[::-1] if turned else opened.size


def _plain_png_size(file: BinaryIO) -> tuple[int, int] | None:
    """The size, if it is a whole PNG without a chunk that could turn it."""
    if file.read(len(PNG)) != PNG:
        return None
    size = None
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IEND":
            return size
        if kind == b"eXIf" or (kind in TEXTS and _turns(file, length)):
            return None
        if kind == b"IHDR" and length == 13:
            size = struct.unpack(">II", file.read(8))
            length -= 8
        file.seek(length + 4, os.SEEK_CUR)
    return None


def _turns(file: BinaryIO, length: int) -> bool:
    start = file.read(min(length, LONGEST_KEYWORD))
    file.seek(-len(start), os.SEEK_CUR)
    return start.startswith(TURNING)
