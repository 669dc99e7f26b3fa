"""Evaluation of an iterate: gold reward, held-out preferences, leaderboard tasks."""
