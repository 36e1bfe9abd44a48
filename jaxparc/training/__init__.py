"""Training across devices: the step, the loop, the grid of learning rates, data, checkpoints."""
