"""A conversion on a Ray cluster: documents drawn in tasks, pages read in actors, one OUT for all.

    files -> draw (tasks) -> read (actors) -> run (this process): documents written as they complete

What lies in OUT is what a conversion in one process writes: either goes on where the other ended.
Needs ray[data]. Every row of data says which document it is of, see `rows.py`.
"""
