"""The run folder: what lies in it, in which form, and how its files come to exist."""
