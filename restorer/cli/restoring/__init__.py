"""The execution of a restoring verb in the terminal: the run over all pictures, each picture, and the dry run."""
