"""Small PDF files for tests, good ones and bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

_PASSWORD = (
    "/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <"
    + "12" * 32
    + "> /U <"
    + "34" * 32
    + "> >> /ID [<00112233445566778899aabbccddeeff> <00112233445566778899aabbccddeeff>]"
)


def page_image(index: int, size: tuple[int, int] = (120, 160)) -> Image.Image:
    """A page unlike that of any other index."""
    image = Image.new("RGB", size, (255, 255, 255))
    image.paste((index * 37 % 256, index * 91 % 256, index % 256), (10, 10, 60, 60))
    return image


def image_pdf(path: Path, num_pages: int, size: tuple[int, int] = (120, 160)) -> Path:
    """A PDF of page images."""
    first, *others = [page_image(index, size) for index in range(num_pages)]
    first.save(path, "PDF", save_all=True, append_images=others, resolution=72)
    return path


def written_pdf(sizes: Sequence[tuple[float, float]], trailer: str = "") -> bytes:
    """A PDF of empty pages of these sizes in points, written by hand."""
    kids = " ".join(f"{3 + index} 0 R" for index in range(len(sizes)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(sizes)} >>",
        *(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:g} {height:g}] >>"
            for width, height in sizes
        ),
    ]
    body, offsets = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}"
        f"trailer << /Size {size} /Root 1 0 R {trailer} >>\nstartxref\n{len(body)}\n%%EOF\n"
    ).encode()


def encrypted_pdf() -> bytes:
    """A PDF that opens with a password nobody knows."""
    return written_pdf([(100, 100)], _PASSWORD)
