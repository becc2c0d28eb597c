"""The ops, a folder for each: the definition in plain PyTorch, and what computes it faster."""
