"""The client library: one sans-I/O core under a blocking and an asynchronous shell."""
