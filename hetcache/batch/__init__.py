"""Many videos with one command: `inference.py batch`, on the GPUs of one machine or of a Ray cluster."""
