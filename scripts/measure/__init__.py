"""Measures steps, options, profiles and memory of the project's own code: a command in each file."""
