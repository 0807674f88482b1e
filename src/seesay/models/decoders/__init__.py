"""The decoders that ship, one a file; every module of this package is loaded by `seesay.models.registry`."""
