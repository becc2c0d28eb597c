"""What a causal LM is made of: its decoder layers, their MLPs and the linear layers that can be adapted, found by structure."""
