"""What comes in: messages -> renderer (one BOS, stripped text) -> tiles and placeholders."""
