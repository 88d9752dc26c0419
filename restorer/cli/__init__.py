"""The terminal: the command line, its verbs, and what they show."""
