"""Picture files and what can be read off them: loading and saving, and the noise-level estimate."""
