"""Captioners: one interface over trained runs, ensembles and exported folders; `load_captioner` opens any of them."""

from seesay.captioners.spec import ModelSpec, load_captioner

__all__ = ["ModelSpec", "load_captioner"]
