"""Tables in what was read: their cells, the form in which they are compared, scores of pairs."""
