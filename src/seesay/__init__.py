"""seesay: train, evaluate, look inside and run image captioners."""

__version__ = "0.1.0"
