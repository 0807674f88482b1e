"""Code shared by the benchmarks; each file beside this folder is one command."""
