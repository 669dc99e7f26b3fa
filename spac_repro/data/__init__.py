"""Preference data: reading, tokenization, storage, contamination; and the built-in world."""
