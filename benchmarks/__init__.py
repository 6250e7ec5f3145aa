"""Timings beside other libraries and beside the arithmetic; see benchmarks/README.md."""
