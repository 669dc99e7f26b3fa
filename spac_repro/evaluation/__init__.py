"""What is measured on an iterate: gold reward, held-out preferences, leaderboard."""
