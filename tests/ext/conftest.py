"""Settings of Hypothesis for these tests: no time limit per example, since machines are shared."""

from hypothesis import settings

settings.register_profile("ext", deadline=None, max_examples=60, print_blob=True)
settings.load_profile("ext")
