"""The benchmark without the model: methods, cells, the resumable runner, and the table. Knows no DiffSynth.

`diffsynth_patches.bench` runs the cells, `scripts/benchmark.py` is the command, `hetcache.report` draws the page.
"""
