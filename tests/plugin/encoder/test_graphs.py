"""The encoder under vLLM's CUDA graph manager, with a graph that replays what it saw on a CPU.

Compared in fp64: a batch padded to a budget is summed in another order, which in fp32 moves either
side by 2e-5 from the exact result, numbers near zero included.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytest.importorskip("vllm")

from vllm import LLM
from vllm.model_executor.models.interfaces import supports_encoder_cudagraph
from vllm.v1.worker import encoder_cudagraph
from vllm.v1.worker.encoder_cudagraph import EncoderCudaGraphManager

from vllm_dsocr.config import Resolution
from vllm_dsocr.encoder.assembly import PageViews, build_vision_tower, embed_pages
from vllm_dsocr.encoder.positions import keep_constants
from vllm_dsocr.plugin.model import DeepseekOCRForCausalLM, vision_sizes

RESOLUTION = Resolution(128, 64, crop_mode=True)  # 4 and 1 tokens a view
BUDGETS = [8, 16]
RANDOM = torch.Generator().manual_seed(0)
EXACTLY = {"rtol": 1e-10, "atol": 1e-10}


class Recorder(TorchDispatchMode):
    """Like a CUDA graph: the same operations on the same memory, and no Python in between."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, out))
        return out

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, out in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(out), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@contextmanager
def recording(graph: Recorder, **_: object) -> Iterator[None]:
    with graph:
        yield


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(encoder_cudagraph, "current_stream", lambda: None)


def page(rows: int = 1, cols: int = 1, base: int = 128, tile: int = 64) -> PageViews:
    tiles = rows * cols if rows * cols > 1 else 0
    pixels = (
        torch.randint(0, 256, s, dtype=torch.uint8, generator=RANDOM)
        for s in ((3, base, base), (tiles, 3, tile, tile))
    )
    return PageViews(*pixels, rows, cols)


def as_kwargs(pages: list[PageViews]) -> dict[str, Any]:
    grid = [torch.tensor((p.rows, p.cols)) for p in pages]
    return {
        "global_view": [p.global_view for p in pages],
        "tiles": [p.tiles for p in pages],
        "grid": grid,
    }


def in_double(model: DeepseekOCRForCausalLM, llm: LLM) -> DeepseekOCRForCausalLM:
    """The same model with vision towers of its own, in fp64; the decoder is shared."""
    twin = copy.copy(model)
    twin._modules, twin._parameters = dict(model._modules), dict(model._parameters)
    build_vision_tower(twin, vision_sizes(llm.model_config))
    names = ("sam_model", "vision_model", "projector")
    for name in names:
        getattr(twin, name).double().load_state_dict(getattr(model, name).state_dict())
    for name in ("image_newline", "view_seperator"):
        setattr(twin, name, torch.nn.Parameter(getattr(model, name).double(), requires_grad=False))
    keep_constants(twin)
    return twin


def started(model: DeepseekOCRForCausalLM, llm: LLM) -> EncoderCudaGraphManager:
    """A manager with every graph captured, at budgets of a toy."""
    config = copy.copy(llm.llm_engine.vllm_config)
    config.compilation_config = copy.copy(config.compilation_config)
    config.compilation_config.encoder_cudagraph_token_budgets = BUDGETS
    config.compilation_config.encoder_cudagraph_max_vision_items_per_batch = 4
    manager = EncoderCudaGraphManager(config, torch.device("cpu"), torch.float32, model)
    manager.capture(graph_pool=object())
    return manager


BATCHES = {
    "one page": [page(2, 3)],
    "no tiles": [page(), page(), page()],
    "more than a batch holds": [page(2, 2) for _ in range(5)],
    "other sides beside recorded ones": [
        page(1, 2),
        page(base=192),
        page(1, 3, 64, 128),
        page(3, 3),
    ],
    "nothing recorded": [page(base=192), page(1, 2, 256, 96)],
    "tiles beyond every budget": [page(3, 6)],
}


def test_every_batch_is_what_it_is_without_graphs(llm: LLM, recorded: None) -> None:
    def check(model: DeepseekOCRForCausalLM) -> None:
        assert supports_encoder_cudagraph(model)
        model = in_double(model, llm)
        model.resolution = RESOLUTION
        manager = started(model, llm)
        assert manager.path_token_budgets == {
            "views_128": [0, 4, 8, 16],
            "views_64": [0, 1, 2, 4, 8, 16],
        }
        before = None
        for name, pages in BATCHES.items():
            hits = manager.graph_hits
            got = manager.execute(as_kwargs(pages))
            with torch.inference_mode():
                want = embed_pages(model, pages)
            for ours, theirs in zip(got, want, strict=True):
                torch.testing.assert_close(
                    ours, theirs, **EXACTLY, msg=lambda m, n=name: f"{n}: {m}"
                )
            assert (manager.graph_hits > hits) == (name != "nothing recorded")
            if before is not None:  # a later replay writes elsewhere
                torch.testing.assert_close(*before, **EXACTLY)
            before = got[0], want[0]

    llm.apply_model(check)


def test_pixels_stay_bytes_until_the_graph(llm: LLM) -> None:
    def check(model: DeepseekOCRForCausalLM) -> None:
        config = model.get_encoder_cudagraph_config()
        assert list(config.paths) == ["views_1024", "views_640"] == config.buffer_keys
        inputs = model.prepare_encoder_cudagraph_capture_inputs(
            300, 4, 0, torch.device("cpu"), torch.float32, "views_640"
        )
        (views,) = inputs.values.values()
        assert (views.shape, views.dtype) == ((3, 3, 640, 640), torch.uint8)

    llm.apply_model(check)
