"""Hyperparameter search: the space of a preset, the study, and its trials."""
