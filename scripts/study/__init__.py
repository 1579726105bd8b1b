"""Many clips, seeds and lengths: every method swept over its dial into a curve, with intervals by clip."""
