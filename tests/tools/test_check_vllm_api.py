"""The comparison of vLLM releases, on the installed one and on releases made up of a few lines."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from zipfile import ZipFile

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_vllm_api.py"
OURS = """
from vllm import Engine
from vllm.base import Processor, Switch, build

class Guard(Processor):
    def __init__(self, anything): ...
    def apply(self, logits): ...
    def own(self): ...

build(1, size=2)
"""
RELEASE = {
    "__init__.py": 'LAZY = {"Engine": ".engine:Engine"}\n',
    "engine.py": "class Engine: ...\n",
    "base.py": "from .rules import Processor\nSwitch = int\ndef build(a, size, more=0): ...\n",
    "rules.py": "class Root:\n def apply(self, logits): ...\nclass Processor(Root): ...\n",
}


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = spec_from_file_location("check_vllm_api", TOOL)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def release(folder: Path, **changed: str) -> Path:
    """A folder with a release of four modules; `changed` replaces some by name."""
    root = folder / f"release{len(list(folder.iterdir()))}"
    (root / "vllm").mkdir(parents=True)
    for name, text in RELEASE.items():
        (root / "vllm" / name).write_text(changed.get(name.removesuffix(".py"), text))
    return root


def findings(tool: ModuleType, folder: Path, **changed: str) -> tuple[bool, str]:
    report = tool.Report(tool.Release(release(folder)), tool.Release(release(folder, **changed)))
    report.check(ast.parse(OURS), "ours.py")
    return report.fits, "\n".join(report.lines)


def test_the_same_release_fits(tool: ModuleType, tmp_path: Path) -> None:
    assert findings(tool, tmp_path) == (True, "")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine": ""}, "missing  vllm:Engine"),
        ({"base": RELEASE["base.py"].replace("Switch", "Lever")}, "missing  vllm.base:Switch"),
        ({"base": RELEASE["base.py"].replace("size", "width")}, "misfit   vllm.base:build"),
        ({"base": RELEASE["base.py"].replace("=0", "")}, "misfit   vllm.base:build"),
        (
            {"rules": RELEASE["rules.py"].replace("apply", "run")},
            "missing  vllm.base:Processor.apply",
        ),
        ({"rules": RELEASE["rules.py"].replace("logits", "scores")}, "misfit   vllm.base:Proc"),
        ({"rules": RELEASE["rules.py"].replace("logits", "logits, c")}, "misfit   vllm.base:Proc"),
    ],
)
def test_what_does_not_fit_is_named(
    tool: ModuleType, tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    fits, lines = findings(tool, tmp_path, **changed)
    assert not fits
    assert said in lines


def test_a_harmless_change_is_told(tool: ModuleType, tmp_path: Path) -> None:
    base = RELEASE["base.py"].replace("more=0", "more=0, extra=1")
    assert findings(tool, tmp_path, base=base) == (True, "changed  vllm.base:build: +extra")


def test_listed_names_have_to_be_there(tool: ModuleType, tmp_path: Path) -> None:
    """Methods, inherited ones too, fields, and what instances are given."""
    base = "from .rules import Processor\nclass Made:\n size: int = 0\n"
    base += " def make(self): self.kept = 1\n"
    report = tool.Report(
        tool.Release(release(tmp_path)), tool.Release(release(tmp_path, base=base))
    )
    there = ("Made.make", "Made.size", "Made.kept", "Processor.apply")
    report.check_listed({f"vllm.base:{name}": "used" for name in there})
    assert report.fits
    report.check_listed({"vllm.base:Made.gone": "used here", "vllm.base:Nobody.make": "used there"})
    assert not report.fits
    assert "missing  vllm.base:Made.gone (used here)" in report.lines


def test_private_names_of_others_are_found(tool: ModuleType) -> None:
    text = "class A:\n def _own(self): self._own(); self._set = self._theirs; x._other; self.__d"
    tree = ast.parse(text)
    read = {name for name, _ in tool.private_names(tree)}
    assert read - tool.own_names(tree) == {"_theirs", "_other"}
    assert list(tool.unlisted()) == []


def test_wheels_are_read_as_they_are(tool: ModuleType, tmp_path: Path) -> None:
    folder, wheel = release(tmp_path), tmp_path / "vllm-1.0-py3-none-any.whl"
    with ZipFile(wheel, "w") as archive:
        for file in folder.rglob("*.py"):
            archive.write(file, file.relative_to(folder))
    assert tool.Release(wheel).find("vllm", "Engine")
    assert tool.Release(wheel).find("vllm.base", "Nobody") is None


def test_the_package_fits_the_installed_vllm(tmp_path: Path) -> None:
    if find_spec("vllm") is None:
        pytest.skip("no vLLM")
    installed = Path(find_spec("vllm").origin).parents[1]
    fits = subprocess.run([sys.executable, TOOL, installed], capture_output=True, text=True)
    assert fits.returncode == 0, fits.stdout
    empty = subprocess.run(
        [sys.executable, TOOL, release(tmp_path)], capture_output=True, text=True
    )
    assert empty.returncode == 1
    assert "DOES NOT FIT" in empty.stdout
