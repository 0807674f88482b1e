"""Networks: image encoders, attention, decoders, and the caption model composed of them.

The modules work on tensors only, not on files or words; only `encoders` and `networks` load named weights.
"""
