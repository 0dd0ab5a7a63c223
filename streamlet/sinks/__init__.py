"""Where rows go.

- parquet: files on s3:// or file://, exactly once from the worker
- memory: the reference, for tests
"""
