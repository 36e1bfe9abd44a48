"""Training on all devices: input data, steps, the loop, grids of learning rates, checkpoints."""
