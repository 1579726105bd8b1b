"""Measures on a loaded model what the methods need to know about it before a run."""
