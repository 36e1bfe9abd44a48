"""Training across devices: data, the step, the loop, grids of learning rates, checkpoints."""
