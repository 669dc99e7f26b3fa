"""Sweeps: many runs, what (sweeps/*.yaml), where (clusters/*.yaml) and how (submitit)."""
