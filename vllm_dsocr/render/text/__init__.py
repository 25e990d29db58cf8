"""What formats of text share: prose, formulas, pages joined, the official way of writing."""
