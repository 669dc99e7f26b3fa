"""Preference data: reading, checking and fingerprints; and a built-in synthetic world."""
