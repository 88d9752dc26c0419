"""Faster modules that replace those of `restorer.networks` for evaluation."""
