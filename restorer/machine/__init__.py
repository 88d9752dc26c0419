"""The machine that a run has: memory, threads, allocator."""
