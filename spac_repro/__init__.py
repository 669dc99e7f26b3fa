"""Self-Play with Adversarial Critic (arXiv 2406.04274): training, evaluation and verification that can be repeated."""

__version__ = "0.1.0"
