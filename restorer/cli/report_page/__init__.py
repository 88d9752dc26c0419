"""The page of `restore compare --html`: pictures, their figures and their records in one self-contained file."""
