"""Imports point one way: what each part of the package may import, tried with the rest blocked."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "numpy", "PIL", "transformers", "vllm", "openai", "pypdfium2", "docling_core"}
ALLOWED = {
    "config": set(),
    "metrics": set(),
    "repetition": set(),
    "engine": set(),
    "adapter_names": set(),
    "plan/bounds": set(),
    "plan/page_cost": set(),
    "evaluation/page": set(),
    "evaluation/olmocr_bench": set(),
    "evaluation/omnidocbench": set(),
    "cli/plan": set(),
    "cli/eval": set(),
    "page/geometry": set(),
    "page/prompt": set(),
    "document/blocks": set(),
    "document/grounding": set(),
    "render/markdown": set(),
    "document/tables": set(),
    "render/html/report": set(),
    "render/formats": set(),
    "document/record": set(),
    "document/loops": set(),
    "page/ranges": set(),
    "render/figures": {"PIL"},
    "page/source": {"PIL"},
    "pipeline/run": {"PIL", "pypdfium2", "numpy"},
    "page/pixels": {"PIL", "numpy", "torch"},
    "encoder/assembly": {"torch", "numpy"},
    "hf/model": {"torch", "numpy", "PIL", "transformers"},
    "server/settings": set(),
    "server/flags": set(),
    "server/app": {"PIL", "numpy", "pypdfium2", "docling_core"},
    "fleet/routing": set(),
    "__init__": set(),
    "cli/__init__": set(),
    "cli/gateway": set(),
}
# What scores may use beside that, and nothing on this list may.
SCORING = {"rapidfuzz", "apted", "lxml", "fuzzysearch"}
WITHOUT_SCORING = ("config", "repetition", "engine", "plan/bounds", "plan/page_cost", "cli/plan")
IMPORT_WITH_BLOCKED = """
import importlib, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} must not be imported here")

BLOCKED = set(sys.argv[2].split(","))
sys.meta_path.insert(0, Blocked())
importlib.import_module(sys.argv[1])
"""


@pytest.mark.parametrize("module", ALLOWED)
def test_a_module_needs_only_what_it_may(module):
    name = f"vllm_dsocr/{module}".replace("/", ".").removesuffix(".__init__")
    scoring = SCORING if module in WITHOUT_SCORING else set()
    blocked = ",".join((HEAVY | scoring) - ALLOWED[module])
    command = [sys.executable, "-c", IMPORT_WITH_BLOCKED, name, blocked]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-600:]


def imported_names(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line.lstrip().startswith(("import ", "from "))]
    return {word[1].partition(".")[0] for word in words}


def test_only_the_hosts_name_their_frameworks():
    package = ROOT / "vllm_dsocr"
    for path in package.rglob("*.py"):
        part = path.relative_to(package).parts[0]
        names = imported_names(path)
        if part not in ("plugin", "__init__.py"):
            assert "vllm" not in names, path
        if part not in ("plugin", "hf", "training"):
            assert "transformers" not in names, path


def test_nothing_evaluates_or_unpickles_what_comes_from_outside():
    for path in (ROOT / "vllm_dsocr").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        for word in (" eval(", " exec(", "pickle.load", "trust_remote_code=True"):
            assert word not in source, f"{word.strip()} in {path}"
