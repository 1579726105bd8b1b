"""The benchmark without the model: methods, cells, the resumable runner, and the table. Knows no DiffSynth.

`executor` runs the cells, `command` is `python -m hetcache.benchmark`, `hetcache.report` draws the page.
"""
