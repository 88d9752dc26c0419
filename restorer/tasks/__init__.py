"""The tasks, which turn options into a degradation and a plan, and these into a restored or generated picture."""
