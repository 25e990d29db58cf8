"""Files -> batches to train on, ids and pixels those of serving.

samples (files of any layout) -> tokens (sizes) -> pages (data sets) -> packing -> collate
"""

from vllm_dsocr.hf.training.data.collate import PageCollator, RecordCollator
from vllm_dsocr.hf.training.data.packing import PackedDataset, PackedStream
from vllm_dsocr.hf.training.data.pages import PageDataset, PageStream, WholeBatches
from vllm_dsocr.hf.training.data.samples import DataError, Sample, iter_samples, read_samples
from vllm_dsocr.hf.training.data.tokens import tokens

__all__ = [
    "DataError",
    "PackedDataset",
    "PackedStream",
    "PageCollator",
    "PageDataset",
    "PageStream",
    "RecordCollator",
    "Sample",
    "WholeBatches",
    "iter_samples",
    "read_samples",
    "tokens",
]
