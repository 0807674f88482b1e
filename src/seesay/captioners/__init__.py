"""Captioners: one interface over trained runs, ensembles and exported folders; `load_captioner` opens any of them."""
