"""A release's sources over another build's libraries."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from zipfile import ZipFile

TOOL = Path(__file__).parents[2] / "tools" / "vllm_sources.py"


def test_sources_are_the_wheels_and_libraries_the_builds(tmp_path: Path) -> None:
    spec = spec_from_file_location("vllm_sources", TOOL)
    tool = module_from_spec(spec)
    sys.modules[spec.name] = tool
    spec.loader.exec_module(tool)
    wheel, kernels, folder = tmp_path / "a.whl", tmp_path / "vllm", tmp_path / "out"
    with ZipFile(wheel, "w") as archive:
        archive.writestr("vllm/engine.py", "later")
        archive.writestr("vllm/_C.abi3.so", "for a GPU")
        archive.writestr("vllm/libs/libx.so.3", "for a GPU")
        archive.writestr("vllm-1.0.dist-info/METADATA", "Name: vllm")
    (kernels / "deep").mkdir(parents=True)
    (kernels / "engine.py").write_text("earlier")
    (kernels / "deep" / "_C_AVX2.abi3.so").write_text("for a CPU")
    assert tool.lay_over(wheel, kernels, folder) == 1
    found = {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}
    assert found == {"vllm/engine.py": "later", "vllm/deep/_C_AVX2.abi3.so": "for a CPU"}
