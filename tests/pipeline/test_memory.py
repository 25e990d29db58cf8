"""500 pages of one PDF: all there, and no more memory at the end than at the beginning."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.page.pdfs import image_pdf

pytest.importorskip("pypdfium2", reason="pip install 'vllm-dsocr[pdf]'")

ROOT = Path(__file__).parents[2]
PAGES, SETTLED = 500, 100
PROGRAM = """
import asyncio, json, os, sys
from pathlib import Path
from tests.fake_engine import FakeEngine
from vllm_dsocr.pipeline.finish import OutputSettings
from vllm_dsocr.pipeline.inputs import find_inputs
from vllm_dsocr.pipeline.run import Conversion
from vllm_dsocr.pipeline.settings import ReadSettings
from vllm_dsocr.render.formats import FORMATS

resident = {}

def report(event):
    pages = Path("/proc/self/statm").read_text().split()[1]
    if event["event"] == "page":
        resident[event["page"]] = int(pages) * os.sysconf("SC_PAGE_SIZE")
    elif event["event"] == "document":
        resident["end"] = int(pages) * os.sysconf("SC_PAGE_SIZE")

source, out = map(Path, sys.argv[1:])
output = OutputSettings(formats=("md", "json", "html", "report", "layout-pdf"))
for name in output.formats:
    FORMATS[name].load()  # as the command does at its start: libraries are no growth
conversion = Conversion(FakeEngine(), ReadSettings("fake", dpi=72), output, out, report)
asyncio.run(conversion.run(find_inputs([source]).files))
print(json.dumps(resident))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_pages(tmp_path: Path) -> None:
    source = image_pdf(tmp_path / "a.pdf", PAGES, size=(400, 400))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(source), str(tmp_path / "out")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    resident = json.loads(done.stdout)
    assert len(resident) == PAGES + 1
    assert resident[str(PAGES)] < 1.15 * resident[str(SETTLED)]
    assert resident["end"] < 1.15 * resident[str(SETTLED)]
    document = json.loads((tmp_path / "out" / "a.pdf" / "document.json").read_text("utf-8"))
    assert [page["page"] for page in document["pages"]] == list(range(1, PAGES + 1))
