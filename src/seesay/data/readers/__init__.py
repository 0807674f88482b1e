"""One reader per format, from files to records; `assemble` turns records into annotations."""
