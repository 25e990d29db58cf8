"""A benchmark's folder and an engine -> its pages read as published, and its scores.

pages     what each benchmark wants read, and where its scorer looks for it
reading   pages -> files, resumable
official  the benchmarks' own scorers, each in a process of its own
published what others measured
"""
