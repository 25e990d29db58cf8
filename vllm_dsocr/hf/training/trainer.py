"""The Trainer of transformers, with what is particular to pages.

Reading held-out pages, one order of pages per seed, rates of their own for parts, checkpoints that
serve. Loop, schedule, precision, logs and resuming are the Trainer's. Knows no settings file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput

from vllm_dsocr.hf.processing import DeepseekOCRProcessor
from vllm_dsocr.hf.training.data.samples import Sample
from vllm_dsocr.hf.training.lora import base_model
from vllm_dsocr.hf.training.parts import part_of
from vllm_dsocr.hf.training.reading import error_rate
from vllm_dsocr.hf.training.saving import MASTER, save_checkpoint, save_master
from vllm_dsocr.hf.training.settings import SettingsError, is_error_rate


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
    """The plain Trainer, whose evaluation also reads pages and whose checkpoints serve.

    read: samples whose character error rate becomes the metric `eval_cer`, of which the lowest is
    the best.  dtype: of the checkpoints, by default the model's own.  rates: learning rates of
    parts, others have that of the arguments.
    Raises SettingsError where several GPUs are seen but one process runs.
    """

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *more: Any,
        processor: DeepseekOCRProcessor,
        read: Sequence[Sample] = (),
        dtype: torch.dtype | None = None,
        rates: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_data_parallel(args)
        super().__init__(model, args, *more, **kwargs)
        self._processor = processor
        self._read = list(read)
        self._dtype = dtype
        self._rates = dict(rates or {})
        if is_error_rate(args.metric_for_best_model):
            args.greater_is_better = False
        # The model smooths by itself, where it can do so without the logits of whole pages.
        self.label_smoother = None
        base_model(self.model).label_smoothing = args.label_smoothing_factor

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        sampler = super()._get_train_sampler(train_dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return LengthGroups(sampler.batch_size, train_dataset or self.train_dataset, seed)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Optimizer:
        made = self.optimizer is None
        optimizer = super().create_optimizer(*args, **kwargs)
        if made and self._rates:
            split_by_part(optimizer, self.model, self._rates)
        return optimizer

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
        self.model.eval()
        half = torch.float16 if self.args.fp16 else torch.bfloat16
        with torch.autocast(self.args.device.type, half, enabled=self.args.fp16 or self.args.bf16):
            return error_rate(
                self.model,
                self._processor,
                self._read,
                self.args.per_device_eval_batch_size,
                self.accelerator,
                synced_gpus=self.is_fsdp_enabled or self.is_deepspeed_enabled,
            )

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        """What serves; in a checkpoint also the weights as they are trained, where those differ."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        trained = base_model(model).dtype
        dtype = self._dtype or trained
        save_checkpoint(model, self._processor, folder, dtype, state_dict)
        whole = state_dict is None and model is base_model(model)  # else saved by FSDP, or adapters
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR) and whole and trained != dtype:
            save_master(model, folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        master = Path(resume_from_checkpoint) / MASTER
        folder = str(master) if master.is_dir() else resume_from_checkpoint
        super()._load_from_checkpoint(folder, model)


def refuse_data_parallel(args: TrainingArguments) -> None:
    """One process over several GPUs is torch's DataParallel, which the inputs do not survive."""
    if args.n_gpu > 1:
        raise SettingsError(
            f"{args.n_gpu} GPUs, but one process: start it as torchrun --nproc-per-node "
            f"{args.n_gpu} -m vllm_dsocr.cli train CONFIG.yaml, or show it one GPU by "
            "CUDA_VISIBLE_DEVICES=0"
        )


def split_by_part(optimizer: Optimizer, model: nn.Module, rates: Mapping[str, float]) -> None:
    """Cuts the optimiser's groups so that parts have learning rates of their own."""
    parts = {id(parameter): part_of(name) for name, parameter in model.named_parameters()}
    groups = []
    for group in optimizer.param_groups:
        own: dict[str, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            own.setdefault(parts[id(parameter)], []).append(parameter)
        for part, parameters in own.items():
            rate = rates.get(part, group["lr"])
            groups.append({**group, "params": parameters, "lr": rate})
    optimizer.param_groups[:] = groups
