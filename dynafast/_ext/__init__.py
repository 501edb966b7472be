"""Compiled modules: the hot paths. The sources are in the top-level folder ``_ext``."""
