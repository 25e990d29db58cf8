"""Model sizes, tokens of a row, rows of a step -> FLOPs and memory of one training step.

Of `dsocr train` with the encoder frozen: it runs once, without keeping anything for the way back,
and everything from the projector on learns. Memory is that of tensors; what kernels take for
themselves, and the allocator on top, is not counted. Knows nothing of GPUs.

    peak = weights + optimiser + the larger of
               what is kept for the way back, and the loss or a layer run again beside it
               all gradients, and the first layer beside them
"""

from __future__ import annotations

from dataclasses import dataclass

from vllm_dsocr.page.geometry import TilePlan
from vllm_dsocr.plan import decoder_cost
from vllm_dsocr.plan.page_cost import PROMPT_TOKENS, encoder_flops
from vllm_dsocr.plan.sizes import DecoderSizes, ModelSizes
from vllm_dsocr.plan.vision_cost import vision_parameters

FP32 = 4
LOSS_CHUNK = 256  # positions; the lean loss's own, which cannot be imported without torch
STATES = 2  # numbers that AdamW keeps per weight, in the weight's type


@dataclass(frozen=True, slots=True)
class TrainSetup:
    """width: bytes per number of weights, gradients and activations (4: fp32, 2: bf16).

    rows: samples of a step.  checkpointing: each layer keeps its input alone and is run again.
    lean_loss: logits in chunks, made again; else those of the whole step.
    """

    width: int = FP32
    rows: int = 1
    checkpointing: bool = False
    lean_loss: bool = True


@dataclass(frozen=True, slots=True)
class TrainCost:
    """Bytes, but for flops and tokens of the step.

    activations: kept from the way forth for the way back.  layer: what one layer keeps, the
    largest, when it is run again.  logits: of the loss at its widest.
    """

    tokens: int
    flops: int
    parameters: int
    gradients: int
    optimiser: int
    activations: int
    layer: int
    logits: int

    @property
    def peak(self) -> int:
        """With the states of the optimiser there, as from the second step on."""
        forth = self.activations + max(self.layer, self.logits)
        return self.parameters + self.optimiser + max(forth, self.gradients + self.layer)


def page_train_cost(
    sizes: ModelSizes, plan: TilePlan, text_tokens: int, setup: TrainSetup = TrainSetup()
) -> TrainCost:
    """Rows of one page and its text each."""
    row = plan.num_image_tokens + PROMPT_TOKENS + text_tokens
    encoder = setup.rows * encoder_flops(sizes, plan)
    features = setup.rows * plan.num_image_tokens * sizes.vision.projector_input * setup.width
    return train_cost(sizes, row, text_tokens, setup, encoder, features)


def train_cost(
    sizes: ModelSizes,
    row_tokens: int,
    target_tokens: int,
    setup: TrainSetup = TrainSetup(),
    encoder: int = 0,
    features: int = 0,
) -> TrainCost:
    """target_tokens: positions of a row that carry loss. encoder: FLOPs. features: bytes kept."""
    decoder = sizes.decoder
    tokens, targets = setup.rows * row_tokens, setup.rows * target_tokens
    learning = decoder_cost.parameters(decoder) + _projector(sizes)
    weights = decoder_cost.parameters(decoder) + vision_parameters(sizes.vision)
    return TrainCost(
        tokens=tokens,
        flops=encoder + _flops(decoder, row_tokens, target_tokens, setup),
        parameters=setup.width * weights,
        gradients=setup.width * learning,
        optimiser=STATES * setup.width * learning,
        activations=features + setup.width * tokens * _kept(decoder, setup.checkpointing),
        layer=setup.width * tokens * max(_layers(decoder)) if setup.checkpointing else 0,
        logits=_logits(decoder, targets, setup),
    )


def _projector(sizes: ModelSizes) -> int:
    return (sizes.vision.projector_input + 1 + 2) * sizes.vision.projector_output


def _flops(decoder: DecoderSizes, row: int, targets: int, setup: TrainSetup) -> int:
    """Backward takes twice the forward; what is made again is one forward more."""
    body = decoder_cost.forward_flops(decoder, row, logits=0)
    head = decoder_cost.forward_flops(decoder, row, logits=targets) - body
    return setup.rows * (
        (4 if setup.checkpointing else 3) * body + (4 if setup.lean_loss else 3) * head
    )


def _kept(decoder: DecoderSizes, checkpointing: bool) -> int:
    """Numbers per token, with what the last norm keeps and gives."""
    inputs = decoder.num_hidden_layers * decoder.hidden_size
    return 3 * decoder.hidden_size + (inputs if checkpointing else sum(_layers(decoder)))


def _layers(decoder: DecoderSizes) -> list[int]:
    """Numbers per token that each layer keeps."""
    dense, moe = _dense_layer(decoder), _moe_layer(decoder)
    return [dense] * decoder.num_dense_layers + [moe] * decoder.num_moe_layers


def _attention(decoder: DecoderSizes) -> int:
    """Numbers kept per token: norms with their inputs, rotated queries and keys, values, out."""
    query = decoder.num_attention_heads * decoder.head_size
    key = decoder.num_key_value_heads * decoder.head_size
    return 6 * decoder.hidden_size + 2 * query + 2 * key


def _feed_forward(width: int) -> int:
    """Gate before and after SiLU, up, and their product."""
    return 4 * width


def _dense_layer(decoder: DecoderSizes) -> int:
    return _attention(decoder) + _feed_forward(decoder.intermediate_size)


def _moe_layer(decoder: DecoderSizes) -> int:
    """Each chosen expert has its own copy of the token and gives one, which is then weighed."""
    chosen = decoder.num_experts_per_tok
    routed = chosen * (3 * decoder.hidden_size + _feed_forward(decoder.moe_intermediate_size))
    shared = _feed_forward(decoder.n_shared_experts * decoder.moe_intermediate_size)
    return _attention(decoder) + routed + shared + 2 * decoder.n_routed_experts


def _logits(decoder: DecoderSizes, targets: int, setup: TrainSetup) -> int:
    """In fp32 as they are, as logarithms of probabilities, and their gradient."""
    positions = min(targets, LOSS_CHUNK) if setup.lean_loss else targets
    copies = 3 * FP32 + (setup.width if setup.width != FP32 else 0)
    return positions * decoder.vocab_size * copies
