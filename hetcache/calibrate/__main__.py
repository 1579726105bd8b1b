"""`python -m hetcache.calibrate`."""

import sys

from hetcache.calibrate.command import main

if __name__ == "__main__":
    sys.exit(main())
