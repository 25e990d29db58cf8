"""What outlives a request: files, jobs, page records. SQL for facts, blobs for bytes."""
