"""Training pass and batch -> losses, with throw-away heads that no checkpoint keeps.

The dense losses ask of one feature cell which character lies at an offset inside it. The joint loss
is next-token prediction, plus rewards for looking at the token that holds the next character and
for knowing that character's place. Knows nothing of optimisers or schedules.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_dsocr.config import IGNORE_INDEX, PATCH_SIZE
from vllm_dsocr.hf import DeepseekOCRForCausalLM

from .batches import CELL, LABELS, Batch
from .forward import Decoded, Features, decode, encode_strips, page_embeddings
from .layout.marks import CORNER, PRINTED
from .pages import PAGE_SIDE
from .tokenizer import VOCAB_SIZE

ALIGNED_LAYERS = (2, 3)  # decoder layers whose first head is told where to look
PLACE_LAYER = 1  # the layer below knows the place
PLACE_BIN = 8  # px
OFFSET_BIN = 4  # px
CORNER_BIN = 2  # px
SMALLEST = 1e-5  # probability below which attention counts as lost; bounds the loss


class CellHead(nn.Module):
    """Feature of a cell and an offset inside it -> logits over characters."""

    def __init__(self, width: int, cell: int, hidden: int, num_out: int = VOCAB_SIZE) -> None:
        super().__init__()
        self.cell = cell
        self.feature = nn.Linear(width, hidden)
        self.offsets = nn.Parameter(torch.randn(2, cell // OFFSET_BIN, hidden) * 0.5)
        self.hidden = nn.Linear(hidden, hidden // 2)
        self.out = nn.Linear(hidden // 2, num_out)

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """features: (B, h, w, width) -> loss and accuracy over all printed characters."""
        row, step = (batch.kinds == PRINTED).nonzero(as_tuple=True)
        logits = self.ask(features, row, batch.points[row, step].long())
        target = batch.labels[row, step]
        return F.cross_entropy(logits, target), (logits.argmax(-1) == target).float().mean()

    def ask(self, features: Tensor, row: Tensor, points: Tensor) -> Tensor:
        """row: (n,), points: (n, 2) px in the strip -> logits (n, num_out)."""
        cells = points // self.cell
        offsets = (points % self.cell) // OFFSET_BIN
        x = self.feature(features[row, cells[:, 1], cells[:, 0]])
        x = x + self.offsets[0, offsets[:, 0]] + self.offsets[1, offsets[:, 1]]
        return self.out(F.gelu(self.hidden(F.gelu(x)))).float()


class BlockHead(CellHead):
    """Feature of a 64 px cell and an offset inside it -> label and box of the block there."""

    def __init__(self, width: int) -> None:
        super().__init__(width, CELL, 384, len(LABELS) + 4 * (PAGE_SIDE // PLACE_BIN))

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss over all queries, and the share of labels that are right."""
        queries = batch.queries.long()
        logits = self.ask(features, queries[:, 0], queries[:, 1:3])
        labels, places = logits.split((len(LABELS), logits.shape[1] - len(LABELS)), dim=1)
        down = torch.tensor([0, batch.top, 0, batch.top])
        bins = (queries[:, 4:] + down) // PLACE_BIN
        loss = F.cross_entropy(places.unflatten(1, (4, -1)).transpose(1, 2), bins)
        right = (labels.argmax(-1) == queries[:, 3]).float().mean()
        return 0.5 * F.cross_entropy(labels, queries[:, 3]) + 2.0 * loss, right


class CornerHead(nn.Module):
    """Feature of the 64 px cell that holds a block's corner -> the corner's place inside it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feature = nn.Linear(width, 256)
        self.which = nn.Parameter(torch.randn(2, 256) * 0.5)
        self.out = nn.Linear(256, 2 * (CELL // CORNER_BIN))

    def forward(self, features: Tensor, batch: Batch) -> Tensor:
        """Mean loss over x and y of all corners."""
        row, x, y, which = batch.corners.long().unbind(1)
        feature = self.feature(features[row, y // CELL, x // CELL]) + self.which[which]
        logits = self.out(F.gelu(feature)).float().unflatten(1, (2, -1)).transpose(1, 2)
        return F.cross_entropy(logits, torch.stack((x, y), 1) % CELL // CORNER_BIN)


class Heads(nn.Module):
    """Everything that is trained beside the model and thrown away."""

    def __init__(self, neck: int, width: int) -> None:
        super().__init__()
        self.fine = CellHead(neck, PATCH_SIZE, 256)
        self.coarse = CellHead(width, CELL, 512)
        self.blocks = BlockHead(width)
        self.corner = CornerHead(width)
        self.place = nn.Linear(width, 2 * (PAGE_SIDE // PLACE_BIN))


Losses = dict[str, Tensor]


def encoder_losses(model: DeepseekOCRForCausalLM, heads: Heads, batch: Batch) -> Losses:
    """Dense losses alone."""
    features = encode_strips(model, batch.pixels.to(model.dtype), batch.top)
    fine, fine_accuracy = heads.fine(features.fine, batch)
    coarse, coarse_accuracy = heads.coarse(features.coarse, batch)
    return {
        "fine": fine,
        "coarse": coarse,
        "fine_accuracy": fine_accuracy,
        "coarse_accuracy": coarse_accuracy,
    }


@torch.no_grad()
def _features(model: DeepseekOCRForCausalLM, batch: Batch) -> Features:
    return encode_strips(model, batch.pixels.to(model.dtype), batch.top)


def head_losses(model: DeepseekOCRForCausalLM, heads: Heads, batch: Batch) -> Losses:
    """What new heads learn from a trained encoder before it learns from them."""
    return _asked(heads, _features(model, batch), batch)


def _asked(heads: Heads, features: Features, batch: Batch) -> Losses:
    fine, _ = heads.fine(features.fine, batch)
    coarse, coarse_accuracy = heads.coarse(features.coarse, batch)
    losses = {"fine": fine, "coarse": coarse, "coarse_accuracy": coarse_accuracy}
    if len(batch.queries):
        losses["blocks"], losses["label_accuracy"] = heads.blocks(features.coarse, batch)
        losses["corner"] = heads.corner(features.coarse, batch)
    return losses


def joint_losses(
    model: DeepseekOCRForCausalLM, heads: Heads, batch: Batch, frozen: bool = False
) -> Losses:
    """Next-token loss and all that supports it.

    frozen: what makes the fine features does not learn.
    """
    features = encode_strips(model, batch.pixels.to(model.dtype), batch.top, frozen)
    x = model.model.embed_tokens(batch.ids)
    image = page_embeddings(model, features.coarse)
    x = torch.cat((x[:, :1], image, x[:, 1 + image.shape[1] :]), dim=1)
    decoded = decode(model, x)
    text = batch.labels != IGNORE_INDEX
    logits = model.lm_head(decoded.hidden[-1][text]).float()
    target = batch.labels[text]
    right = (logits.argmax(-1) == target).float()
    losses = {
        "text": F.cross_entropy(logits, target),
        "align": _alignment(decoded, batch, text),
        "place": _place(heads, decoded, batch, text),
        "balance": decoded.balance,
        "accuracy": right.mean(),
    }
    losses |= _asked(heads, features, batch)
    kinds = batch.kinds[text]
    if (kinds == CORNER).any():
        losses["digit_accuracy"] = right[kinds == CORNER].mean()
    if (kinds == PRINTED).any():
        losses["printed_accuracy"] = right[kinds == PRINTED].mean()
    return losses


def _alignment(decoded: Decoded, batch: Batch, text: Tensor) -> Tensor:
    cells = batch.points[text].long() // CELL
    per_row = batch.pixels.shape[2] // CELL + 1
    token = 1 + cells[:, 1] * per_row + cells[:, 0]
    row, step = text.nonzero(as_tuple=True)
    losses = [
        -decoded.probs[layer][row, 0, step, token].float().clamp(min=SMALLEST).log().mean()
        for layer in ALIGNED_LAYERS
    ]
    return torch.stack(losses).mean()


def _place(heads: Heads, decoded: Decoded, batch: Batch, text: Tensor) -> Tensor:
    logits = heads.place(decoded.hidden[PLACE_LAYER][text]).float()
    target = batch.points[text].clone()
    target[:, 1] += batch.top  # the tokens carry places on the page, not in the strip
    bins = (target / PLACE_BIN).long()
    x, y = logits.chunk(2, dim=-1)
    return F.cross_entropy(x, bins[:, 0]) + F.cross_entropy(y, bins[:, 1])
