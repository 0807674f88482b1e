"""One small function a format, each from files to records; and what turns records into annotations."""
