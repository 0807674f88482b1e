"""Fine-tuning of pretrained captioners: the recipe, its batches, its module of Lightning, and its second stage."""
