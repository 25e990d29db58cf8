"""Share of the pages done -> stage, rate, loss weights and mix of pages: two plans.

One continuous plan keyed on the share of the budget, so that one of any length sees
every stage. Knows nothing of clocks, models or batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_NORM = 3.0
FADING = ("fine", "coarse", "align", "place", "blocks", "corner")
Points = Sequence[tuple[float, dict[str, float]]]  # share done -> values; linear in between


def between(points: Points, share: float) -> dict[str, float]:
    """The values at `share`."""
    for (start, low), (end, high) in zip(points, points[1:], strict=False):
        if share <= end:
            part = (share - start) / (end - start)
            return {name: low[name] + part * (high[name] - low[name]) for name in low}
    return dict(points[-1][1])


@dataclass(frozen=True, slots=True)
class Plan:
    """heights: weights of strip heights, px, among the steps. pages: what `batches.Mix` takes."""

    heights: Points
    pages: Points
    peak_rate: float  # Muon's
    decay_from: float
    encoder_until: float = 0.0  # share for the dense losses alone
    encoder_rate_share: float = 0.25  # the encoder's rate once the decoder trains too
    frozen_until: float = 0.0  # share for which SAM's blocks and neck stay as they are
    fade_from: float = 0.85  # from here the supporting losses fade to nothing
    decay_power: float = 1.4  # steeper than linear: at a high rate the encoder stops improving
    warm_up: int = 40  # steps
    weights: dict[str, float] = field(
        default_factory=lambda: {
            "text": 1.0,
            "fine": 0.1,
            "coarse": 0.3,
            "align": 0.3,
            "place": 0.15,
            "balance": 0.005,
        }
    )

    def is_joint(self, share: float) -> bool:
        """Whether the decoder trains."""
        return share >= self.encoder_until

    def rate(self, share: float, step: int) -> float:
        """Muon's rate; `step` counts the steps that the model has learnt in, below 0 before."""
        decay = min(1.0, max(0.0, (1.0 - share) / (1.0 - self.decay_from)))
        return self.peak_rate * decay**self.decay_power * min(1.0, max(0, step + 1) / self.warm_up)

    def encoder_share(self, share: float) -> float:
        """The encoder's rate relative to the decoder's."""
        return self.encoder_rate_share if self.is_joint(share) else 1.0

    def loss_weights(self, share: float) -> dict[str, float]:
        """Weights of the losses that are summed."""
        if not self.is_joint(share):
            return {"fine": 1.0, "coarse": 1.0}
        fade = min(1.0, max(0.0, (1.0 - share) / (1.0 - self.fade_from)))
        return {n: w * (fade if n in FADING else 1.0) for n, w in self.weights.items()}


LINES = Plan(
    heights=[
        (0.00, {"128": 0.70, "256": 0.30, "384": 0.00, "640": 0.00}),
        (0.15, {"128": 0.60, "256": 0.40, "384": 0.00, "640": 0.00}),
        (0.30, {"128": 0.20, "256": 0.50, "384": 0.25, "640": 0.05}),
        (0.50, {"128": 0.05, "256": 0.25, "384": 0.35, "640": 0.35}),
        (0.70, {"128": 0.00, "256": 0.10, "384": 0.25, "640": 0.65}),
        (1.00, {"128": 0.00, "256": 0.05, "384": 0.15, "640": 0.80}),
    ],
    pages=[(0.0, {"plain": 1.0, "chars": 1.0})],
    peak_rate=0.02,
    decay_from=0.2,
    encoder_until=0.10,
)

LAYOUT = Plan(
    heights=[
        (0.00, {"256": 0.60, "384": 0.30, "640": 0.10}),
        (0.15, {"256": 0.40, "384": 0.35, "640": 0.25}),
        (0.40, {"256": 0.15, "384": 0.30, "640": 0.55}),
        (1.00, {"256": 0.05, "384": 0.15, "640": 0.80}),
    ],
    pages=[
        (0.0, {"plain": 0.25, "chars": 0.60}),
        (0.4, {"plain": 0.25, "chars": 0.80}),
        (0.8, {"plain": 0.28, "chars": 1.00}),
    ],
    peak_rate=0.006,
    decay_from=0.1,
    frozen_until=0.5,
    decay_power=1.2,
    encoder_rate_share=0.5,
    warm_up=30,
    weights={
        "text": 1.0,
        "fine": 0.05,
        "coarse": 0.05,
        "align": 0.3,
        "place": 0.1,
        "blocks": 0.07,
        "corner": 0.1,
        "balance": 0.005,
    },
)

PLANS = {"lines": LINES, "layout": LAYOUT}
