"""Sampling of self-play responses: the package's own decoder, and vLLM."""
