"""The first bytes of a file -> what it is, whatever it is called. Standard library only."""

from __future__ import annotations

import os
import re
from typing import Literal

HEAD_BYTES = 1024
Kind = Literal["image", "pdf"]

_PDF_MAGIC = b"%PDF-"  # readers allow some bytes before the header
_IMAGE = re.compile(
    rb"\x89PNG\r\n\x1a\n"
    rb"|\xff\xd8\xff"  # JPEG, JFIF
    rb"|GIF8[79]a"
    rb"|RIFF....WEBP"
    rb"|II[*+]\0|MM\0[*+]"  # TIFF and BigTIFF
    rb"|BM....\0\0\0\0"
    rb"|P[1-7][ \t\r\n#]"  # PBM, PGM, PPM, PAM
    rb"|\0\0\0\x0cjP  \r\n|\xff\x4f\xff\x51"  # JPEG 2000: JP2 or JPX, bare codestream
    rb"|....ftyp(?:av|he|mi|ms)",
    re.DOTALL,
)
_HEIF = re.compile(rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1)", re.DOTALL)


def kind_of(head: bytes) -> Kind | None:
    """What starts so: a picture, a PDF, or nothing that has pages here."""
    if _IMAGE.match(head):
        return "image"
    return "pdf" if _PDF_MAGIC in head else None


def is_heif(head: bytes) -> bool:
    """Whether it is the format of phone cameras, which Pillow itself does not read."""
    return bool(_HEIF.match(head)) and b"avif" not in head[:64]


def file_kind(path: str | os.PathLike[str]) -> Kind | None:
    """`kind_of` a file. Raises OSError."""
    with open(path, "rb") as file:
        return kind_of(file.read(HEAD_BYTES))
