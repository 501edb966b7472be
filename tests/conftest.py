"""What holds for the whole suite."""

import signal

# A shell without job control starts what it puts in the background with SIGINT ignored, and every child inherits
# that; `nohup` does so with SIGHUP. The tests interrupt and hang up processes, wherever the suite itself was started.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
