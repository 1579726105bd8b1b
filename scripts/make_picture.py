"""`python scripts/make_picture.py`: see scripts/pictures/make_picture.py."""

from door import through

through("scripts.pictures.make_picture")
