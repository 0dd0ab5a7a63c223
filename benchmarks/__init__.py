"""The benchmark suite: what does streamlet cost beside the others? See README.md; `python -m benchmarks --help`."""
