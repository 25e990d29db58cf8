"""Ours and vLLM's own DeepSeek-OCR side by side, each in a process of its own.

    side = Side("benchmarks.preprocess", "peer")  ->  side.ask(rounds=3)  ->  its answer

One process can hold one of them only: both are registered for the same architecture. vLLM's own
needs three image transforms of torchvision, which the CPU build comes without; where it is absent
they are lent for the moment of the import. Knows nothing of what is measured.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vllm_dsocr.config import ARCHITECTURE

SIDES = ("ours", "peer")
PROCESSORS = "vllm.transformers_utils.processors"
ENVIRONMENT = {
    "VLLM_PLUGINS": "",  # what is installed stays out; `register` brings in the one side
    "VLLM_LOGGING_LEVEL": "ERROR",
    "TOKENIZERS_PARALLELISM": "false",
}


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: list[Callable[[Any], Any]]) -> None:
        self.transforms = transforms

    def __call__(self, image: Any) -> Any:
        for transform in self.transforms:
            image = transform(image)
        return image


class ToTensor:
    """RGB image -> fp32 (3, height, width) from 0 to 1."""

    def __call__(self, image: Image.Image) -> Tensor:
        planes = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        return planes.to(torch.float32).div_(255)


class Normalize:
    """(x - mean) / std for each channel, in a new tensor."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.mean).div_(self.std)


def register(side: str) -> None:
    """Make `side` the DeepSeek-OCR of this process. To be called before vLLM makes an engine."""
    if side == "ours":
        import vllm_dsocr

        vllm_dsocr.register()
    else:
        from vllm import ModelRegistry

        ModelRegistry.register_model(ARCHITECTURE, peer_model())


def register_peer() -> None:
    """For an entry point of group `vllm.general_plugins`: vLLM's own in all of its processes."""
    register("peer")


def peer_model() -> type[torch.nn.Module]:
    """vLLM's own model class, whose processor finds its transforms.

    The class, not its name: a name vLLM would look up in yet another process, which lacks them.
    """
    with _transforms():
        for name in ("deepseek_ocr", "deepseek_vl2"):
            importlib.import_module(f"{PROCESSORS}.{name}")
    return importlib.import_module("vllm.model_executor.models.deepseek_ocr").DeepseekOCRForCausalLM


@contextmanager
def _transforms() -> Iterator[None]:
    """`torchvision.transforms` has the three classes, unless the real one is installed.

    Only while vLLM's processors are imported: transformers takes a module of that name for the
    whole library. What they import from transformers is therefore imported before.
    """
    if find_spec("torchvision"):
        yield
        return
    importlib.import_module("transformers.processing_utils")
    importlib.import_module("transformers").LlamaTokenizerFast  # noqa: B018 -- imports it
    package, transforms = ModuleType("torchvision"), ModuleType("torchvision.transforms")
    transforms.Compose, transforms.ToTensor, transforms.Normalize = Compose, ToTensor, Normalize
    package.transforms = transforms
    lent = {module.__name__: module for module in (package, transforms)}
    sys.modules.update(lent)
    try:
        yield
    finally:
        for name in lent:
            del sys.modules[name]


class Side:
    """A process that runs `module` as `side` and answers questions; both are JSON objects.

    The process is stopped when the `with` block ends. `arguments` are command-line arguments.
    """

    def __init__(self, module: str, side: str, *arguments: str, **environment: str) -> None:
        self.name = side
        command = [sys.executable, "-m", module, "--side", side, *arguments]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ENVIRONMENT, **environment},
        )

    def ask(self, **question: Any) -> dict[str, Any]:
        """The answer. Raises RuntimeError when the process has died; its log says why."""
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer says so
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} stopped with status {self._process.wait()}")
        return json.loads(answer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.stdin.close()  # the end of the questions
        self._process.wait()


def answer_questions(answer: Callable[..., dict[str, Any]]) -> None:
    """The other end of `Side.ask`: stdin's questions to `answer`, until there are no more.

    Whatever else writes to stdout, vLLM's log among it, goes to stderr.
    """
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)
        for question in sys.stdin:
            answers.write(json.dumps(answer(**json.loads(question))) + "\n")
