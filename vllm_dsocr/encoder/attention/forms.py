"""Every form of the attention over a grid, by name, and which of them serves where.

    Forms(grid) -> the form named for this shape, else the device's usual one -> attended patches

Names are what a flag may say. Measuring is done elsewhere; what it found is kept here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from torch import Tensor

from vllm_dsocr.encoder.attention import channels, fused, pieces
from vllm_dsocr.encoder.attention.grid import ByHead, Grid, head_by_head

AUTO = "auto"
ALIGNED = 8  # numbers: what torch fills the rows of a bias up to on a GPU, in a copy
Shape = tuple[int, int]  # side of the grid, window


@dataclass(frozen=True)
class Form:
    """One way to compute it; whether it runs on a grid, and whether it has gradients."""

    call: Callable[[Grid], Tensor]
    fits: Callable[[Grid], bool] = lambda grid: True
    trains: bool = False


def by_head(attention: ByHead) -> Callable[[Grid], Tensor]:
    return partial(head_by_head, attention=attention)


def on_cpu(grid: Grid) -> bool:
    return grid.qkv.device.type == "cpu"


def bias_fits(grid: Grid) -> bool:
    """Whether the whole bias takes no more memory than positions as channels, which is planned for.

    That leaves windows and small views: of one view of 1024 px it would be 384 MiB in bf16.
    """
    keys = grid.size**2
    copies = 1 if on_cpu(grid) or keys % ALIGNED == 0 else 2
    return copies * keys <= 3 * grid.head_dim + 4 * grid.size


FORMS: dict[str, Form] = {
    "channels": Form(by_head(channels.as_channels), trains=True),
    "mask": Form(by_head(channels.as_mask), bias_fits, trains=True),
    "pieces": Form(by_head(pieces.in_pieces), on_cpu),
    "pieces-bias": Form(by_head(partial(pieces.in_pieces, add_bias=True)), on_cpu),
    "pieces-channels": Form(by_head(partial(pieces.in_pieces, add_bias=False)), on_cpu),
    **{
        name: Form(partial(fused.fused, launch=name), partial(fused.fits, launch=name))
        for name in fused.LAUNCHES
    },
}
TRAINING = "channels"


@dataclass
class Forms:
    """Which form serves; shared by all blocks of a tower.

    name: a form for every shape, or AUTO. chosen: by shape, as measured.
    """

    name: str = AUTO
    chosen: dict[Shape, str] = field(default_factory=dict)

    def __call__(self, grid: Grid) -> Tensor:
        """(N, side, side, width)."""
        return FORMS[self.form_for(grid)].call(grid)

    def form_for(self, grid: Grid) -> str:
        """The named or measured one where it can run, else the usual one."""
        wanted = self.name if self.name != AUTO else self._measured(grid)
        if wanted is not None:
            form = FORMS[wanted]
            if form.fits(grid) and (form.trains or not grid.trains):
                return wanted
        return usual(grid)

    def _measured(self, grid: Grid) -> str | None:
        """That of this side, or of the nearest one that was measured."""
        sides = [side for side, window in self.chosen if window == grid.window]
        if not sides:
            return None
        return self.chosen[min(sides, key=lambda side: abs(side - grid.side)), grid.window]


def usual(grid: Grid) -> str:
    """What serves where nothing was measured.

    GPUs run torch's fused kernels only without a bias, hence positions as channels. On a CPU pieces
    in the cache beat torch's fused kernel.
    """
    if on_cpu(grid) and not grid.trains:
        return "pieces"
    return TRAINING
