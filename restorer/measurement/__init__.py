"""Estimation of the defects of a picture from its pixels and its file."""
