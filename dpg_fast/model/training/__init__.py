"""What trainers ask of a model: a forward they can inspect, recomputed layers, a backward pass that teaches something."""
