"""Training: losses, the Lightning module, and `train`, which produces a run folder."""
