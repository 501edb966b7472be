"""``python -m dynafast`` is the command ``dynafast``."""

import sys

from dynafast.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
