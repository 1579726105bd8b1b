"""`python scripts/fetch_weights.py`: see hetcache/metrics/__main__.py."""

from door import through

through("hetcache.metrics")
