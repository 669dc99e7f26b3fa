"""Whether a number can be trusted: expected results, verification, comparison of runs, reruns."""
