"""Scores of a policy: the Open LLM Leaderboard (v1) and the built-in mini leaderboard, through lm-eval."""

SUITES = ("mini", "openllm")  # their names; suites.py has their tasks. Nothing is imported here: the command line lists them
