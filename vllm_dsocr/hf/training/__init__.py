"""Training for the transformers host: files -> batches -> a checkpoint or an adapter that serves.

samples -> data -> PageTrainer (parts, adapters, reading held-out pages) -> saving
"""

from vllm_dsocr.hf.training.data import (
    DataError,
    PackedDataset,
    PackedStream,
    PageCollator,
    PageDataset,
    PageStream,
    RecordCollator,
    Sample,
    iter_samples,
    read_samples,
)
from vllm_dsocr.hf.training.parts import checkpoint_towers, freeze, part_of
from vllm_dsocr.hf.training.reading import read_pages
from vllm_dsocr.hf.training.run import make_trainer, train
from vllm_dsocr.hf.training.settings import SettingsError, TrainSettings, read_settings
from vllm_dsocr.hf.training.trainer import PageTrainer
from vllm_dsocr.hf.training.views import ViewsProcessor, with_pixel_values

__all__ = [
    "DataError",
    "PackedDataset",
    "PackedStream",
    "PageCollator",
    "PageDataset",
    "PageStream",
    "PageTrainer",
    "RecordCollator",
    "Sample",
    "SettingsError",
    "TrainSettings",
    "ViewsProcessor",
    "checkpoint_towers",
    "freeze",
    "iter_samples",
    "make_trainer",
    "part_of",
    "read_pages",
    "read_samples",
    "read_settings",
    "train",
    "with_pixel_values",
]
