"""The convergence claims in the tabular setting: SPAC-T, its practical form and its rivals, computed exactly."""
