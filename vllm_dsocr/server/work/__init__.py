"""From stored bytes to read pages: drawn in processes, read in one batch that is fair."""
