"""More than one engine: which of several servers reads the next page."""
