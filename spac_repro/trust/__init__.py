"""Whether a number holds: expected results, verification, comparison, replay."""
