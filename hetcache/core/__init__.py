"""What every method shares: vocabulary, sessions, schedules, tokens, FLOPs, settings. Knows no pipeline library."""
