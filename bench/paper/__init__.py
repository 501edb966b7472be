"""The experiments of the paper (SOSP 2007, section 6), repeated here: ``python -m bench paper``."""
