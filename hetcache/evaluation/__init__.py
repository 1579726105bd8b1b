"""Compares videos: pairs, regions, batches, reports."""
