"""The files of a run that are uploaded to the hub, and those that are downloaded from it."""

LOADED = (
    "captioner.json",
    "config.yaml",
    "tokenizer.json",
    "model.safetensors",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    *(f"model/*.{suffix}" for suffix in ("json", "txt", "model", "jinja", "safetensors")),
)
"""Patterns of the files from which a captioner is loaded: text and safetensors, which hold no code."""

CARD = "README.md"
"""The model card."""

PUSHED = (*LOADED, CARD, "metrics.csv", "curves.png")
"""Patterns of the files of a pushed run. No checkpoints, predictions, features, or training captions and images."""
