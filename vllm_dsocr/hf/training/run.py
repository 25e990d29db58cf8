"""TrainSettings -> a fine-tuned checkpoint or an adapter: puts the other files together."""

from __future__ import annotations

import logging
from functools import partial
from importlib.util import find_spec

import torch
from torch import nn
from torch.utils.data import IterableDataset
from transformers import EarlyStoppingCallback, TrainingArguments, set_seed

from vllm_dsocr.hf.model import DeepseekOCRForCausalLM
from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.data import (
    PackedDataset,
    PackedStream,
    PageCollator,
    PageDataset,
    PageStream,
    WholeBatches,
)
from vllm_dsocr.hf.training.data.samples import DataError, iter_samples, read_samples
from vllm_dsocr.hf.training.lora import add_lora, loading
from vllm_dsocr.hf.training.parts import PARTS, checkpoint_towers, freeze
from vllm_dsocr.hf.training.saving import last_checkpoint, stored_dtype
from vllm_dsocr.hf.training.settings import SettingsError, TrainSettings
from vllm_dsocr.hf.training.trainer import PageTrainer

logger = logging.getLogger(__name__)

TrainData = PageDataset | PageStream | PackedDataset | PackedStream | WholeBatches


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
    if not trainer.state.global_step:
        raise DataError(f"{settings.data}: nothing to train on")
    metrics = trainer.evaluate() if trainer.eval_dataset else {}
    if trainer.is_fsdp_enabled:
        trainer.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
    trainer.save_model()
    return metrics


def make_trainer(settings: TrainSettings, processor: DeepseekOCRProcessor) -> PageTrainer:
    """Model, data and arguments, put together. Raises ImportError with the install hint."""
    if settings.trainer.get("deepspeed") and not find_spec("deepspeed"):
        raise ImportError("trainer.deepspeed needs DeepSpeed: pip install deepspeed")
    arguments = TrainingArguments(
        output_dir=str(settings.output),
        remove_unused_columns=False,
        prediction_loss_only=True,  # logits of whole pages would fill the memory
        **{"report_to": "none", **settings.trainer},
    )
    data = shared(open_data(settings, processor), arguments)
    held_out = settings.eval_data and _dataset(settings.eval_data, settings, processor)
    patience = settings.early_stopping
    set_seed(arguments.seed)  # adapters begin with random weights; the Trainer sets it later
    return PageTrainer(
        prepare_model(settings, arguments.gradient_checkpointing),
        arguments,
        PageCollator(processor),
        train_dataset=data,
        eval_dataset=held_out,
        processor=processor,
        read=held_out.samples[: settings.eval_pages] if held_out else (),
        dtype=stored_dtype(settings.model),
        rates=settings.rates,
        callbacks=[EarlyStoppingCallback(patience)] if patience else None,
    )


def open_data(settings: TrainSettings, processor: DeepseekOCRProcessor) -> TrainData:
    """The samples to train on: all of them as ids, or one by one where they are streamed."""
    room = settings.packing
    if settings.stream:
        source = partial(iter_samples, settings.data, settings.prompt, bad=logger.warning)
        stream = PageStream(source, processor, settings.max_length)
        return PackedStream(stream, room) if room else stream
    pages = _dataset(settings.data, settings, processor)
    if not room:
        return pages
    packed = PackedDataset(pages, room)
    logger.warning("%s: %s", settings.data, packed.filled)
    return packed


def shared(data: TrainData, arguments: TrainingArguments) -> TrainData:
    """A stream cut to equal parts for several ranks; other data is cut by the Trainer."""
    if not isinstance(data, IterableDataset):
        return data
    # Else accelerate puts batches of all ranks together, of whatever lengths, and cuts the lists in
    # them as if each entry were a row; in a single process too.
    arguments.accelerator_config.dispatch_batches = False
    if arguments.world_size == 1:
        return data
    return WholeBatches(data, arguments.train_batch_size * arguments.world_size)


def _dataset(path: str, settings: TrainSettings, processor: DeepseekOCRProcessor) -> PageDataset:
    unread: list[str] = []
    samples = read_samples(path, settings.prompt, unread.append if settings.skip_bad else None)
    dataset = PageDataset(samples, processor, settings.max_length, settings.skip_bad, unread)
    logger.warning("%s: %s", path, dataset.kept)
    if not len(dataset):
        raise DataError(f"{path}: nothing to train on: {dataset.kept}")
    return dataset


def prepare_model(settings: TrainSettings, checkpointing: bool) -> nn.Module:
    """The checkpoint in fp32, parts frozen; or in the base's precision with adapters added.

    Mixed precision is the Trainer's.
    """
    lora = settings.lora
    how = loading(lora) if lora else {"dtype": torch.float32}
    model = DeepseekOCRForCausalLM.from_pretrained(settings.model, **how)
    model.lean_loss = settings.lean_loss
    freeze(model, settings.freeze if lora is None else PARTS)
    if checkpointing:
        checkpoint_towers(model)
    return add_lora(model, lora) if lora else model
