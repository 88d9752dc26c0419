"""Training a prior: data, recipe, loop, run folder."""
