"""What people write (recipes, `--set`, expected results, sweeps, cluster profiles): read, checked, and refused in one line."""
