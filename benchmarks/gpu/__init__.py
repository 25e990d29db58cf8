"""What a GPU makes of the parts of this package that can run on one, checked and timed.

bench -> one device, its ceilings, clock and memory;  encoder, guard, pixels, loss, engine -> rows;
report -> a table, Markdown, JSON. Run with `python -m benchmarks.gpu`.
"""
