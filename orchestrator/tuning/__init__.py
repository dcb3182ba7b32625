"""Searches: which recipe is best, tried out trial by trial on a Ray cluster, resumable and extensible."""
