"""Makes what the repository shows: the example's files, and README's picture."""
