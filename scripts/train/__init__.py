"""Training of the embedded model: `python -m scripts.train --help`, from the repository's root."""
