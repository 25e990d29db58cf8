"""A PDF page as it is displayed -> coordinates of its own user space. Standard library only.

What is displayed is the crop box, turned clockwise by /Rotate. /UserUnit says how large a unit is
on paper and changes no coordinate.
"""

from __future__ import annotations

from dataclasses import dataclass

Rectangle = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PdfFrame:
    """crop_box: (left, bottom, right, top) in user space.  rotation: 0, 90, 180 or 270 degrees."""

    crop_box: Rectangle
    rotation: int = 0

    def user_space(self, left: float, top: float, right: float, bottom: float) -> Rectangle:
        """(left, bottom, right, top) in user space of a box in fractions of the displayed page.

        The fractions count from the displayed page's upper left corner.
        """
        (xa, ya), (xb, yb) = self.point(left, top), self.point(right, bottom)
        return min(xa, xb), min(ya, yb), max(xa, xb), max(ya, yb)

    def point(self, right: float, down: float) -> tuple[float, float]:
        """(x, y) in user space of a displayed point, in fractions from the upper left corner."""
        x1, y1, x2, y2 = self.crop_box
        width, height = x2 - x1, y2 - y1
        if self.rotation == 90:
            return x1 + down * width, y1 + right * height
        if self.rotation == 180:
            return x2 - right * width, y1 + down * height
        if self.rotation == 270:
            return x2 - down * width, y2 - right * height
        return x1 + right * width, y2 - down * height
