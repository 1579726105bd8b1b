"""`python -m hetcache.masking`."""

import sys

from hetcache.masking.command import main

if __name__ == "__main__":
    sys.exit(main())
