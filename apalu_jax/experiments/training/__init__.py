"""Training of vmapped seeds: optimizers, compiled functions, the loop."""
