"""Runs over one picture or ten thousand: paths, log, records, overlapped reading and writing."""
