"""What the benchmarks share; each file beside this folder is one command."""
