"""Estimates of what happened to a picture, from its pixels and its file."""
