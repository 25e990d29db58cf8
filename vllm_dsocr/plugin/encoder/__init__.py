"""The vision encoder under vLLM: its attention's choice, CUDA graphs, pages spread over ranks."""
