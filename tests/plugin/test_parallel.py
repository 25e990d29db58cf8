"""Two processes give what one gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("vllm")

from vllm import LLM

from tests.plugin.engines import continuations, prompt

SEARCH_PATH = os.pathsep.join((str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")))
# vLLM's CPU build makes the buffers of later pipeline stages in a warm-up that it leaves out for
# uncompiled models; this traces the model without compiling it.
TRACED = {"mode": 2, "backend": "eager"}
SPLITS: dict[str, dict[str, Any]] = {
    "tensor parallel": {"tensor_parallel_size": 2},
    "pages over ranks": {"tensor_parallel_size": 2, "mm_encoder_tp_mode": "data"},
    "pipeline parallel": {
        "enforce_eager": False,
        "compilation_config": TRACED,
        "skip_mm_profiling": True,
        "pipeline_parallel_size": 2,
    },
}
# A program of its own: engine processes start from the main module anew.
PROGRAM = """
import json, sys
from pathlib import Path
from PIL import Image
from tests.plugin.engines import continuations, prompt, start
if __name__ == "__main__":
    checkpoint, image, options = json.loads(sys.argv[1])
    llm = start(Path(checkpoint), **options)
    page = Image.open(image)
    requests = [prompt("<image>\\nFree OCR.", page, mode=mode) for mode in ("tiny", "gundam")]
    print("IDS", json.dumps(continuations(llm, [*requests, prompt("Some text.")], tokens=8)))
"""


def generated(checkpoint: Path, image: Path, folder: Path, **options: Any) -> list[list[int]]:
    program = folder / "generate.py"
    program.write_text(PROGRAM)
    run = subprocess.run(
        [sys.executable, program, json.dumps([str(checkpoint), str(image), options])],
        env={**os.environ, "PYTHONPATH": SEARCH_PATH, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    (line,) = (line for line in run.stdout.splitlines() if line.startswith("IDS "))
    return json.loads(line.removeprefix("IDS "))


@pytest.mark.parametrize(
    "split",
    [
        # What it shows beyond the next is the encoder whole on both ranks.
        pytest.param("tensor parallel", marks=pytest.mark.slow),
        "pages over ranks",
        pytest.param("pipeline parallel", marks=pytest.mark.slow),
    ],
)
def test_ids_do_not_depend_on_the_split(
    llm: LLM, checkpoint: Path, pages: dict[str, Image.Image], tmp_path: Path, split: str
) -> None:
    page = pages["v1_page"]
    requests = [prompt("<image>\nFree OCR.", page, mode=mode) for mode in ("tiny", "gundam")]
    expected = continuations(llm, [*requests, prompt("Some text.")], tokens=8)
    ids = generated(checkpoint, Path(page.filename), tmp_path, **SPLITS[split])
    assert ids == expected
