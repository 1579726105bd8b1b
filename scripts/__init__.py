"""Commands for people who work on the project; each starts from any folder."""
