"""The networks: image encoders, attention, decoders, and the captioner made of them.

Everything here knows tensors only, no files and no words; `encoders` with its `networks` alone loads named weights.
"""
