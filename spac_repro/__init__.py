"""Self-Play with Adversarial Critic (arXiv 2406.04274): training, evaluation and verification that can be repeated."""

__version__ = "0.2.0"  # the one source of the version: pyproject.toml reads it, and a test compares the places that repeat it
