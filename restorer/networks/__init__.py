"""Neural networks, without any knowledge of what they are used for."""
