"""Share of the time used -> stage, rate, loss weights and mix of strip heights.

One continuous plan keyed on the share of the time budget, so that a budget of any length sees
every stage. Knows nothing of clocks, models or batches.
"""

from __future__ import annotations

ENCODER_UNTIL = 0.10  # share of the time for the dense losses alone
FADE_FROM = 0.85  # from here the supporting losses fade to nothing
PEAK_RATE = 0.02  # Muon's
DECAY_FROM = 0.2
DECAY_POWER = 1.4  # steeper than linear: at a high rate the encoder's features stop improving
ENCODER_RATE_SHARE = 0.25  # the encoder's rate once the decoder trains too
WARM_UP = 40  # steps
MAX_NORM = 3.0

# Share of time -> weights of strip heights (px) among the steps; linear in between.
MIXES = [
    (0.00, {128: 0.70, 256: 0.30, 384: 0.00, 640: 0.00}),
    (0.15, {128: 0.60, 256: 0.40, 384: 0.00, 640: 0.00}),
    (0.30, {128: 0.20, 256: 0.50, 384: 0.25, 640: 0.05}),
    (0.50, {128: 0.05, 256: 0.25, 384: 0.35, 640: 0.35}),
    (0.70, {128: 0.00, 256: 0.10, 384: 0.25, 640: 0.65}),
    (1.00, {128: 0.00, 256: 0.05, 384: 0.15, 640: 0.80}),
]
WEIGHTS = {
    "text": 1.0,
    "fine": 0.1,
    "coarse": 0.3,
    "align": 0.3,
    "place": 0.15,
    "balance": 0.005,
}
FADING = ("fine", "coarse", "align", "place")


def is_joint(share: float) -> bool:
    """Whether the decoder trains."""
    return share >= ENCODER_UNTIL


def rate(share: float, step: int) -> float:
    """Muon's rate."""
    decay = min(1.0, max(0.0, (1.0 - share) / (1.0 - DECAY_FROM)))
    return PEAK_RATE * decay**DECAY_POWER * min(1.0, (step + 1) / WARM_UP)


def encoder_rate_share(share: float) -> float:
    """The encoder's rate relative to the decoder's."""
    return ENCODER_RATE_SHARE if is_joint(share) else 1.0


def loss_weights(share: float) -> dict[str, float]:
    """Weights of the losses that are summed."""
    if not is_joint(share):
        return {"fine": 1.0, "coarse": 1.0}
    fade = min(1.0, max(0.0, (1.0 - share) / (1.0 - FADE_FROM)))
    return {name: w * (fade if name in FADING else 1.0) for name, w in WEIGHTS.items()}


def height_mix(share: float) -> dict[int, float]:
    """Weights of the strip heights, px."""
    for (start, low), (end, high) in zip(MIXES, MIXES[1:], strict=False):
        if share <= end:
            part = (share - start) / (end - start)
            return {h: low[h] + part * (high[h] - low[h]) for h in low}
    return MIXES[-1][1]
