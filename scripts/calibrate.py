"""`python scripts/calibrate.py`: see hetcache/calibrate/command.py."""

from door import through

through("hetcache.calibrate")
