"""Training of a prior: data, recipe, loop and run folder."""
