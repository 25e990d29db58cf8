"""What can be measured once on a GPU and kept: block sizes of vLLM's kernel for the experts."""
