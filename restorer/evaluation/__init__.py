"""Measuring results: metrics, comparison with the truth, and speed."""
