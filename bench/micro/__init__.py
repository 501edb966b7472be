"""Micro benchmarks: each compiled module against the best plain Python that does the same."""
