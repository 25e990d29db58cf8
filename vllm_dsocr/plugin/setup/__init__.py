"""What is set without a flag while vLLM makes its configuration, and for which releases."""
