"""Native CPU operations, each an operator of `torch.library` with a reference implementation in plain torch.

One pair of files per operation: `NAME.py` registers the operator and holds its reference, `NAME.c` is the native code.
The reference is used on other devices and data types, and wherever the native library is absent.
"""
