"""Compiled parts of the benchmarks. The sources are in ``_ext/bench``; they are built in a checkout, never shipped."""
