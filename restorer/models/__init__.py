"""Model files: how they are found, downloaded, checked and loaded."""
