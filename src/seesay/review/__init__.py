"""Review of captions by a person: a local web page that shows, corrects, accepts and rejects them."""
