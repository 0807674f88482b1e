"""METEOR 1.5 for English as in coco-caption, without Java."""

from seesay.metrics.meteor.score import Meteor, meteor_from_statistics
from seesay.metrics.meteor.tables import available

__all__ = ["Meteor", "available", "meteor_from_statistics"]
