"""Image files: reading, writing, masks, metadata and the search in folders."""
