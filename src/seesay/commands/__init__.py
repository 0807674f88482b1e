"""The commands of the command line, by what they are about; `seesay.cli` puts them together."""
