"""Training: objectives, the Lightning module, and `train(config)` that puts a run together."""
