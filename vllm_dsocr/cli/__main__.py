"""`python -m vllm_dsocr.cli`, for where the `dsocr` script is not on the path."""

from vllm_dsocr.cli import main

raise SystemExit(main())
