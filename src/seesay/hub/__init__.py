"""Captioners on the Hugging Face hub: download (`pull`), upload (`push`) and the model card (`card`)."""
