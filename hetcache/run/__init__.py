"""One edit from its options to its files: jobs, long videos, records, pages."""
