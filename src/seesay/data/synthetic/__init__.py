"""Synthetic data: drawn scenes with captions, boxes and splits."""
