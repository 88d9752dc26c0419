"""Measuring results: metrics, comparison with the truth, speed."""
