"""The resources of the machine: memory, threads and the memory allocator."""
