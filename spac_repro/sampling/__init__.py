"""Self-play responses, sampled from the current policy."""
