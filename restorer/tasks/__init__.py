"""The tasks: from options to a degradation and a plan, and to the restored picture."""
