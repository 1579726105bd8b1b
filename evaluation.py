"""How good are edited videos? `python evaluation.py quality` and `vbench`: see hetcache/evaluation/command.py."""

import sys

from hetcache.evaluation.command import main

if __name__ == "__main__":
    sys.exit(main())
