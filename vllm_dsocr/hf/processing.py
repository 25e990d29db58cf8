"""Prompts and PIL images -> model inputs, equal to what serving makes of them.

Knows the tokenizer and the checkpoint's page options; knows nothing of the model.
"""

from __future__ import annotations
