"""The theorem, rerun: SPAC-T, its practical form and its rivals where everything can be computed exactly."""
