"""Retrieval of similar training images, and the choice among captions by consensus. Does not need torch."""
