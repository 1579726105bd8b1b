"""One self-contained HTML page of a benchmark or of a single run. Pure: records and frames in, a string out."""
