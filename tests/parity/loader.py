"""Reference data of the official code -> JSON documents, tensors, images and test cases.

The directory may be any of the documented format: which images, modes, prompts and checkpoint it
holds is read from its files. Knows nothing of the package's models.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from vllm_dsocr.config import MODES, Resolution
from vllm_dsocr.page.source import open_image

VARIABLE = "DSOCR_PARITY_DATA"
DEFAULT = Path(__file__).parent.parent / "data"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Case:
    """One entry of `cases` in a document of `golden/`; `case["mode"]` is a field of the entry."""

    name: str
    document: Document
    values: Document

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class ParityData:
    """A directory with `golden/`, `images/` and one checkpoint of whatever name."""

    root: Path

    @property
    def checkpoint(self) -> Path:
        """The one sub-directory that holds weights."""
        (weights,) = self.root.glob("*/model.safetensors")
        return weights.parent

    def document(self, name: str) -> Document:
        """A JSON file of `golden/`; the test is skipped where the data have none."""
        path = self.root / "golden" / name
        if not path.exists():
            pytest.skip(f"no {path}")
        return _read_json(path)

    def cases(self, pattern: str) -> list[Case]:
        """All cases of all documents of that name pattern, none where there are no such files."""
        paths = sorted((self.root / "golden").glob(pattern))
        return [case for path in paths for case in _cases(path.stem, _read_json(path))]

    def tensors(self, document: Document) -> dict[str, Tensor]:
        """The tensors beside a document, by the name it gives."""
        return _read_tensors(self.root / "golden" / document["tensors"])

    def image(self, file: str) -> Image.Image:
        """Upright RGB. `file` as documents write it, `images/page.png`.

        The test is skipped where a JPEG decodes to other pixels than the recorded ones.
        """
        image = open_image(self.root / file, alpha="drop")
        if file.endswith((".jpg", ".jpeg")):
            recorded = self.image_record(file)["rgb_sha256"]
            if hashlib.sha256(image.tobytes()).hexdigest() != recorded:
                pytest.skip(f"another JPEG decoder than the one {file} was recorded with")
        return image

    def image_record(self, file: str) -> Document:
        """What `images/images.json` says about a file."""
        records = _read_json(self.root / "images" / "images.json")["images"]
        return next(record for record in records if record["file"] == Path(file).name)


DATA = ParityData(Path(os.environ.get(VARIABLE) or DEFAULT).resolve())


def each_case(
    pattern: str, wanted: Callable[[Case], bool] = lambda case: True
) -> pytest.MarkDecorator:
    """Runs a test once per wanted case of the documents, as its argument `case`."""
    return pytest.mark.parametrize("case", filter(wanted, DATA.cases(pattern)), ids=str)


def unrle(pairs: Iterable[tuple[int, int]]) -> list[int]:
    """[[value, run length], ...] -> the values."""
    return [value for value, length in pairs for _ in range(length)]


def sha256(tensor: Tensor) -> str:
    """Digest of a tensor's bytes in C order, as the documents give it."""
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def resolution(mode: str) -> Resolution:
    """A mode as documents name it: `base`, `gundam`, `gundam_max6`."""
    preset, max_crops = re.fullmatch(r"(.+?)(?:_max(\d+))?", mode).groups()
    return replace(MODES[preset], max_crops=int(max_crops)) if max_crops else MODES[preset]


def _cases(stem: str, document: Document) -> Iterable[Case]:
    for index, values in enumerate(document["cases"]):
        label = values.get("case") or values.get("mode") or ""
        yield Case(f"{stem}-{index}-{label}".rstrip("-"), document, values)


@functools.cache
def _read_json(path: Path) -> Document:
    return json.loads(path.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=2)
def _read_tensors(path: Path) -> dict[str, Tensor]:
    return load_file(path)
