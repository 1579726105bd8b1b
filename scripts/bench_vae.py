"""`python scripts/bench_vae.py`: see scripts/measure/bench_vae.py."""

from door import through

through("scripts.measure.bench_vae")
