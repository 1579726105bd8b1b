"""The benchmark without the model: methods, cells, the resumable runner, and the table. Knows no DiffSynth.

`hetcache.benchmark.executor` runs the cells, `scripts/benchmark.py` is the command, `hetcache.report` draws the page.
"""
