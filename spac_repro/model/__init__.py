"""The policy: made, loaded, saved, and its log-probabilities of packed responses."""
