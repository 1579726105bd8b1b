"""`python scripts/gpu_check.py`: see scripts/measure/gpu_check.py."""

from door import through

through("scripts.measure.gpu_check")
