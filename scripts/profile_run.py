"""`python scripts/profile_run.py`: see scripts/measure/profile_run.py."""

from door import through

through("scripts.measure.profile_run")
