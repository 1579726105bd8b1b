"""`python scripts/bench_step.py`: see scripts/measure/bench_step.py."""

from door import through

through("scripts.measure.bench_step")
