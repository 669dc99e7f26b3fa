"""Scores of a policy: the Open LLM Leaderboard (v1) and the built-in mini leaderboard, through lm-eval."""
