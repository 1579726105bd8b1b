"""`python scripts/bench_options.py`: see scripts/measure/bench_options.py."""

from door import through

through("scripts.measure.bench_options")
