"""The repetition guard inside vLLM: one rule, an adapter for each model runner, ban kernels.

Served under `vllm_dsocr.plugin.logits`, the public class paths.
"""
