"""Images: sources, safe loading, orientation, preprocessing, prefetching and metadata."""
