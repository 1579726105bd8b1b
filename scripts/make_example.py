"""`python scripts/make_example.py`: see scripts/pictures/make_example.py."""

from door import through

through("scripts.pictures.make_example")
