"""The terminal. Nothing here touches a tensor, and PyTorch is imported inside commands only."""
