"""The built-in decoders, one per module; `seesay.models.registry` loads every module of this package."""
