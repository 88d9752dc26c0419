"""Runs over one picture or ten thousand: paths, the log, provenance records, and overlapped reading and writing."""
