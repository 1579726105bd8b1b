"""`python scripts/check_long_memory.py`: see scripts/measure/check_long_memory.py."""

from door import through

through("scripts.measure.check_long_memory")
