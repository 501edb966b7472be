"""Benchmarks: ``python -m bench NAME``. They may see the package and its tests; nothing imports them."""
