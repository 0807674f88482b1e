"""The commands of the command line, one module per group; `seesay.cli` assembles them."""
