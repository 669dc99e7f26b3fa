"""The policy: creation, loading and saving, and log-probabilities of packed responses."""
