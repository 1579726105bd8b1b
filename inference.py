"""Edit one masked video: `python inference.py --mode hetcache`. See --help and README.md."""

from __future__ import annotations

import sys

from hetcache.run.command import main

if __name__ == "__main__":
    sys.exit(main())
