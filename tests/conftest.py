"""What holds for the whole suite."""

import signal

# A shell without job control starts what it puts in the background with SIGINT ignored, and every child inherits
# that. The tests interrupt processes as Ctrl-C does, wherever the suite itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)
