"""A font without letters that knows every character: what invisible text is set in.

Each character of a document gets a number of its own; a table in the PDF says which character it
is, so that any script can be searched without its letters being in the file. Needs pikepdf.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable

import pikepdf
from pikepdf import Dictionary, Name

ADVANCE = 500  # of every character, in thousandths of the font size
ASCENT, DESCENT = 800, -200
_UNITS = 1000
_PER_SECTION = 100  # entries a section of a CMap may have


class Characters:
    """The characters of a document, numbered as they come: the first have codes of one byte."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def encoded(self, text: str) -> bytes:
        """The text as the font's codes. Raises ValueError for more than 32,895 characters."""
        numbers = [self._numbers.setdefault(char, len(self._numbers) + 1) for char in text]
        if len(self._numbers) > _MOST:
            raise ValueError("the document has more different characters than a PDF font can hold")
        return b"".join(map(_code, numbers))

    def to_unicode(self) -> bytes:
        """The CMap that says which character a code is."""
        entries = [
            f"<{_code(number).hex()}> <{char.encode('utf-16-be').hex()}>"
            for char, number in self._numbers.items()
        ]
        sections = (entries[i : i + _PER_SECTION] for i in range(0, len(entries), _PER_SECTION))
        body = "\n".join(
            f"{len(section)} beginbfchar\n" + "\n".join(section) + "\nendbfchar"
            for section in sections
        )
        return _cmap("DsocrUnicode", 2, body)


_ONE_BYTE, _TWO_BYTES = 0x7F, 0x8000  # last code of one byte, first of two
_MOST = _ONE_BYTE + 0x8000


def _code(number: int) -> bytes:
    if number <= _ONE_BYTE:
        return bytes([number])
    return (_TWO_BYTES + number - _ONE_BYTE - 1).to_bytes(2, "big")


def _code_map() -> bytes:
    """The CMap from codes to numbers."""
    ranges = f"2 begincidrange\n<00> <7f> 0\n<8000> <ffff> {_ONE_BYTE + 1}\nendcidrange"
    return _cmap("DsocrCodes", 1, ranges)


def _cmap(name: str, kind: int, body: str) -> bytes:
    return (
        "/CIDInit /ProcSet findresource begin 12 dict begin begincmap\n"
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> def\n"
        f"/CMapName /{name} def /CMapType {kind} def\n"
        "2 begincodespacerange\n<00> <7f>\n<8000> <ffff>\nendcodespacerange\n"
        f"{body}\nendcmap CMapName currentdict /CMap defineresource pop end end\n"
    ).encode()


def font_object(pdf: pikepdf.Pdf, characters: Characters) -> pikepdf.Object:
    """The font for those characters, as an object of the PDF."""
    name = Name.DsocrInvisible
    descriptor = Dictionary(
        Type=Name.FontDescriptor,
        FontName=name,
        Flags=4,
        FontBBox=[0, DESCENT, ADVANCE, ASCENT],
        ItalicAngle=0,
        Ascent=ASCENT,
        Descent=DESCENT,
        CapHeight=ASCENT,
        StemV=80,
        FontFile2=pdf.make_stream(_truetype()),
    )
    system = Dictionary(Registry=b"Adobe", Ordering=b"Identity", Supplement=0)
    codes = pdf.make_stream(
        _code_map(), Type=Name.CMap, CMapName=Name.DsocrCodes, CIDSystemInfo=system
    )
    descendant = Dictionary(
        Type=Name.Font,
        Subtype=Name.CIDFontType2,
        BaseFont=name,
        CIDSystemInfo=system,
        FontDescriptor=pdf.make_indirect(descriptor),
        DW=ADVANCE,
        CIDToGIDMap=pdf.make_stream(b"\0\1" * (len(characters) + 1)),
    )
    return pdf.make_indirect(
        Dictionary(
            Type=Name.Font,
            Subtype=Name.Type0,
            BaseFont=name,
            Encoding=codes,
            DescendantFonts=[pdf.make_indirect(descendant)],
            ToUnicode=pdf.make_stream(characters.to_unicode()),
        )
    )


def _truetype() -> bytes:
    """A small TrueType file: no glyph, and one that is a box, which gives text an extent."""
    box = _box_glyph()
    head = struct.pack(
        ">IIIIHHqqhhhhHHhhh",
        0x00010000, 0x00010000, 0, 0x5F0F3CF5, 0, _UNITS, 0, 0,
        0, DESCENT, ADVANCE, ASCENT, 0, 8, 2, 0, 0,
    )  # fmt: skip
    hhea = struct.pack(">IhhhHhhhhhhhhhhhH", 0x00010000, ASCENT, DESCENT, 0, ADVANCE, *[0] * 11, 1)
    maxp = struct.pack(">IH13H", 0x00010000, 2, 4, 1, *[0] * 11)
    return _sfnt(
        {
            b"glyf": box,
            b"head": head,
            b"hhea": hhea,
            b"hmtx": struct.pack(">Hhh", ADVANCE, 0, 0),
            b"loca": struct.pack(">HHH", 0, 0, len(box) // 2),
            b"maxp": maxp,
        }
    )


def _box_glyph() -> bytes:
    """One contour around the whole place of a character."""
    height = ASCENT - DESCENT
    header = struct.pack(">hhhhh", 1, 0, DESCENT, ADVANCE, ASCENT)
    points = struct.pack(">HH4B", 3, 0, *[1] * 4)  # last point, no instructions, on the curve
    moves = struct.pack(">4h4h", 0, ADVANCE, 0, -ADVANCE, DESCENT, 0, height, 0)
    data = header + points + moves
    return data + b"\0" * (-len(data) % 4)


def _sfnt(tables: dict[bytes, bytes]) -> bytes:
    """Tables, in order of their tags, as a font file."""
    power = 2 ** (len(tables).bit_length() - 1)
    header = struct.pack(
        ">IHHHH", 0x00010000, len(tables), 16 * power, power.bit_length() - 1,
        16 * (len(tables) - power),
    )  # fmt: skip
    directory, body = b"", b""
    start = len(header) + 16 * len(tables)
    for tag, data in tables.items():
        padded = data + b"\0" * (-len(data) % 4)
        place = start + len(body)
        directory += struct.pack(">4sIII", tag, _checksum([padded]), place, len(data))
        body += padded
    return header + directory + body


def _checksum(parts: Iterable[bytes]) -> int:
    data = b"".join(parts)
    words: tuple[int, ...] = struct.unpack(f">{len(data) // 4}I", data)
    return sum(words) & 0xFFFFFFFF
