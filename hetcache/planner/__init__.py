"""The exact plan of a run: the sequence of full, partial and reused steps with the least predicted error for a cost."""
