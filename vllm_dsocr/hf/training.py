"""TrainSettings -> a fine-tuned checkpoint or an adapter, by the Trainer of transformers.

What is particular to pages is here: which part learns, what the vision towers keep for the way
back, reading held-out pages. Loop, schedule, precision, logs and resuming are the Trainer's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import GenerationConfig, Trainer, TrainingArguments, set_seed
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from vllm_dsocr.config import EOS_TOKEN
from vllm_dsocr.engine import clean_text
from vllm_dsocr.hf.data import PageCollator, PageDataset, Sample, read_samples
from vllm_dsocr.hf.lora import add_lora, base_model
from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.train_settings import SettingsError, TrainSettings, is_error_rate
from vllm_dsocr.metrics import edit_distance
from vllm_dsocr.page.source import open_image

# Prefixes of parameter names; newline and separator embeddings belong to what joins the parts.
VISION = ("model.sam_model.", "model.vision_model.")
PROJECTOR = ("model.projector.", "model.image_newline", "model.view_seperator")
STATE = "trainer_state.json"  # what the Trainer writes last into a checkpoint
NEVER_USED = "model.vision_model.embeddings.patch_embedding."


def part_of(name: str) -> str:
    """`vision`, `projector` or `language`, by the name of a parameter."""
    if name.startswith(VISION):
        return "vision"
    return "projector" if name.startswith(PROJECTOR) else "language"


def freeze(model: DeepseekOCRForCausalLM, parts: Sequence[str]) -> None:
    """Lets all parts learn but these; what no pass uses never does."""
    for name, parameter in model.named_parameters():
        learns = part_of(name) not in parts and not name.startswith(NEVER_USED)
        parameter.requires_grad_(learns)


def checkpoint_towers(model: DeepseekOCRForCausalLM) -> None:
    """Makes the blocks of both towers forget their activations and compute them again.

    `gradient_checkpointing_enable` of transformers does so for the decoder only.
    """
    towers = model.model.sam_model.blocks, model.model.vision_model.transformer.layers
    for block in (block for tower in towers for block in tower):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)


@torch.no_grad()
def read_pages(
    model: nn.Module, processor: DeepseekOCRProcessor, samples: Sequence[Sample]
) -> list[str]:
    """Greedy texts of a batch; no page gets more than twice the tokens of the longest answer."""
    images = [open_image(path) for sample in samples for path in sample.images]
    inputs = processor([sample.prompt for sample in samples], images)
    tensors = {k: v.to(model.device) if torch.is_tensor(v) else v for k, v in inputs.items()}
    answers = processor.tokenizer([sample.answer for sample in samples])["input_ids"]
    eos = processor.tokenizer.convert_tokens_to_ids(EOS_TOKEN)
    ids = model.generate(
        **tensors,
        generation_config=GenerationConfig(
            max_new_tokens=2 * max(map(len, answers)) + 1,
            eos_token_id=eos,
            pad_token_id=processor.pad_token_id,
        ),
    )
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [clean_text(text) for text in processor.tokenizer.batch_decode(new)]


class LengthGroups(LengthGroupedSampler):
    """Pages of like length side by side, in an order that follows from seed and epoch alone.

    The base class draws from torch's global generator, whose state in the middle of an epoch is not
    that of its start: a resumed run would go on in another order.
    """

    def __init__(
        self, batch_size: int, dataset: Sequence[Mapping[str, Any]] | Dataset, seed: int
    ) -> None:
        super().__init__(batch_size, dataset)
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """The Trainer calls it before every epoch."""
        self.generator = torch.Generator().manual_seed(self._seed + epoch)


class PageTrainer(Trainer):
    """The plain Trainer, whose evaluation also reads pages.

    read: samples whose character error rate becomes the metric `eval_cer`, of which the lowest is
    the best.
    """

    def __init__(
        self,
        *args: Any,
        processor: DeepseekOCRProcessor,
        read: Sequence[Sample] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._processor = processor
        self._read = list(read)
        if is_error_rate(self.args.metric_for_best_model):
            self.args.greater_is_better = False
        # The model smooths by itself, where it can do so without the logits of whole pages.
        self.label_smoother = None
        base_model(self.model).label_smoothing = self.args.label_smoothing_factor

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroups(sampler.batch_size, train_dataset or self.train_dataset, seed)

    def evaluation_loop(
        self, dataloader: DataLoader, description: str, *args: Any, **kwargs: Any
    ) -> EvalLoopOutput:
        """Adds the error rate here, so that logs, callbacks and the best checkpoint all see it."""
        output = super().evaluation_loop(dataloader, description, *args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        if self._read and prefix == "eval":
            output.metrics[f"{prefix}_cer"] = self._character_error_rate()
        return output

    def _character_error_rate(self) -> float:
        """Wrong characters per character of the truth."""
        self.model.eval()
        step, edits = self.args.per_device_eval_batch_size, 0
        for start in range(0, len(self._read), step):
            samples = self._read[start : start + step]
            texts = read_pages(self.model, self._processor, samples)
            pairs = zip(texts, samples, strict=True)
            edits += sum(edit_distance(text, sample.answer) for text, sample in pairs)
        return edits / max(1, sum(len(sample.answer) for sample in self._read))


def train(settings: TrainSettings, resume: bool = False) -> dict[str, float]:
    """Trains and saves into `settings.output`; returns the last metrics.

    resume: go on from the last checkpoint there, where there is one.
    Raises SettingsError, DataError or OSError before the first step.
    """
    last = last_checkpoint(settings.output)
    if last and not resume:
        raise SettingsError(f"{settings.output} holds {last}: resume, or choose another output")
    processor = DeepseekOCRProcessor.from_pretrained(settings.model, **settings.page)
    trainer = make_trainer(settings, processor)
    trainer.train(resume_from_checkpoint=last and str(last))
    metrics = trainer.evaluate() if trainer.eval_dataset else {}
    if trainer.is_world_process_zero():
        save(trainer.model, processor, settings)
    return metrics


def last_checkpoint(folder: Path) -> Path | None:
    """The newest one that is whole: a run may have been killed while it wrote another."""
    found = [(_steps(state), state.parent) for state in folder.glob(f"checkpoint-*/{STATE}")]
    steps, newest = max(found, default=(-1, None))
    return newest if steps >= 0 else None


def _steps(state: Path) -> int:
    """Steps done; -1 where the file, the last one of a checkpoint, was not written to its end."""
    try:
        return json.loads(state.read_text(encoding="utf-8"))["global_step"]
    except ValueError:
        return -1


def make_trainer(settings: TrainSettings, processor: DeepseekOCRProcessor) -> PageTrainer:
    """Model, data and arguments, put together."""
    arguments = TrainingArguments(
        output_dir=str(settings.output),
        remove_unused_columns=False,
        prediction_loss_only=True,  # logits of whole pages would fill the memory
        **{"report_to": "none", **settings.trainer},
    )
    data, held_out = (
        path and PageDataset(read_samples(path, settings.prompt), processor, settings.max_length)
        for path in (settings.data, settings.eval_data)
    )
    set_seed(arguments.seed)  # adapters begin with random weights; the Trainer sets it later
    return PageTrainer(
        model=prepare_model(settings, arguments.gradient_checkpointing),
        args=arguments,
        data_collator=PageCollator(processor),
        train_dataset=data,
        eval_dataset=held_out,
        processor=processor,
        read=held_out.samples[: settings.eval_pages] if held_out else (),
    )


def prepare_model(settings: TrainSettings, checkpointing: bool) -> nn.Module:
    """The checkpoint in fp32, parts frozen or adapters added. Mixed precision is the Trainer's."""
    model = DeepseekOCRForCausalLM.from_pretrained(settings.model, dtype=torch.float32)
    model.lean_loss = settings.lean_loss
    freeze(model, settings.freeze)
    if checkpointing:
        checkpoint_towers(model)
    return add_lora(model, settings.lora) if settings.lora else model


def save(model: nn.Module, processor: DeepseekOCRProcessor, settings: TrainSettings) -> None:
    """A checkpoint that serves, in the dtype of the one it came from; of adapters the adapter."""
    if settings.lora is None:
        model.to(stored_dtype(settings.model))
        processor.save_pretrained(settings.output)
    model.save_pretrained(settings.output)


def stored_dtype(checkpoint: str) -> torch.dtype:
    """The dtype the weights of a checkpoint are stored in."""
    return DeepseekOCRForCausalLM.config_class.from_pretrained(checkpoint).dtype or torch.float32
