"""`python -m hetcache.benchmark`; `bash scripts/benchmark.sh` is the same from any folder."""

import sys

from hetcache.benchmark.command import main

if __name__ == "__main__":
    sys.exit(main())
