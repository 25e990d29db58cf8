"""Files in, documents out: every input page becomes exactly one `Page` on disk."""
