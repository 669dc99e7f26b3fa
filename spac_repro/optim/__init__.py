"""Optimizer steps: training loop, engines, checkpoints, distributed processes, signals, metrics."""
