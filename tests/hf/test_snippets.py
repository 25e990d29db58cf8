"""The usage snippets of README.md and docs/transformers.md, run as they stand in a fresh process.

Put in their place are the path of the bundled reader for the hub's name, its one size of page for
that of the published model and, without a GPU, what needs one: `.cuda()` leaves the model where
it is, and attention is torch's own.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "examples/page.png"
ANSWER = (ROOT / "examples/page.txt").read_text()[:20]
WITHOUT_GPU = "import torch\ntorch.nn.Module.cuda = lambda module: module\n"
DOCUMENTS = ("README.md", "docs/transformers.md")


def snippets():
    for document in DOCUMENTS:
        blocks = re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.S)
        for number, code in enumerate(block for block in blocks if "vllm_dsocr.hf" in block):
            yield pytest.param(code, id=f"{document}-{number}")


@pytest.mark.parametrize("code", snippets())
def test_a_snippet_runs_as_it_stands(code, tmp_path):
    shutil.copy(PAGE, tmp_path / "page.png")
    code = code.replace("deepseek-ai/DeepSeek-OCR", str(ROOT / "examples/reader"))
    code = code.replace("base_size=1024", "base_size=640").replace(
        "crop_mode=True", "crop_mode=False"
    )
    if not torch.cuda.is_available():
        code = WITHOUT_GPU + code.replace("flash_attention_2", "sdpa")
    shows = "\nprint(locals().get('res') or locals().get('text') or '')"
    done = subprocess.run(
        [sys.executable, "-c", code + shows], cwd=tmp_path, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert not done.returncode, done.stderr[-2000:]
    assert ANSWER in done.stdout
    if "save_results=True" in code:
        assert ANSWER in (tmp_path / "out/result.mmd").read_text()
