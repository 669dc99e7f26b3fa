"""Read and check the documents that people write: recipes, `--set`, expected results, sweeps, cluster profiles."""
