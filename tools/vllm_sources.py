"""A vLLM release without a CPU build -> a folder whose `vllm` runs on the installed kernels.

    python tools/vllm_sources.py vllm-0.33.0-....whl FOLDER
    PYTHONPATH=FOLDER:. python -m pytest tests/plugin

Python sources are the release's, shared libraries the installed CPU build's. That is enough to run
the host's tests as long as the two agree on the kernels a CPU calls; it is no way to serve.
"""

from __future__ import annotations

import argparse
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path


def is_library(name: str) -> bool:
    """Whether a file is compiled, under whatever version suffix."""
    return ".so" in Path(name).suffixes


def lay_over(wheel: Path, kernels: Path, folder: Path) -> int:
    """The number of files of the wheel that are in `folder` now; kernels: an installed `vllm`."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        sources = [name for name in names if name.startswith("vllm/") and not is_library(name)]
        archive.extractall(folder, sources)
    for library in kernels.rglob("*"):
        if library.is_file() and is_library(library.name):
            target = folder / "vllm" / library.relative_to(kernels)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)
    return len(sources)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    spec = find_spec("vllm")
    if spec is None or spec.origin is None:
        raise SystemExit("vLLM is not installed, so there are no kernels to run on")
    count = lay_over(arguments.wheel, Path(spec.origin).parent, arguments.folder)
    print(f"{arguments.folder}: {count} files of {arguments.wheel.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
