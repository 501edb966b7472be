"""The client library: one sans-I/O core (`core`, `link`, `calls`) under two shells, blocking and async."""
