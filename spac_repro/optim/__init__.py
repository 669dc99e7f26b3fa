"""Optimiser steps: engines, schedule, checkpoints, processes, signals, metrics."""
