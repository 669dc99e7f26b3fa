"""Scores of a policy: suites of tasks (suites.py), asked through lm-eval."""
