"""Masks from a few marks: a box, clicks, an outline or a painted image on some frames become a mask of every frame."""
