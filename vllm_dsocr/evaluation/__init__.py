"""What was read and what is true -> scores. Knows nothing of models or images."""
