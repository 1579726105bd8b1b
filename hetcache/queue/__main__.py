"""`python -m hetcache.queue`, installed as `hetcache-queue`."""

import sys

from hetcache.queue.command import main

if __name__ == "__main__":
    sys.exit(main())
