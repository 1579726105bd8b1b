"""`python -m hetcache.app`, installed as `hetcache-app`."""

import sys

from hetcache.app.command import main

if __name__ == "__main__":
    sys.exit(main())
