"""Files -> batches to train on, ids and pixels those of serving.

samples (files of any layout) -> tokens (sizes) -> pages (data sets) -> collate
"""

from vllm_dsocr.hf.training.data.collate import PageCollator, RecordCollator
from vllm_dsocr.hf.training.data.pages import PageDataset, PageStream
from vllm_dsocr.hf.training.data.samples import DataError, Sample, iter_samples, read_samples
from vllm_dsocr.hf.training.data.tokens import tokens

__all__ = [
    "DataError",
    "PageCollator",
    "PageDataset",
    "PageStream",
    "RecordCollator",
    "Sample",
    "iter_samples",
    "read_samples",
    "tokens",
]
