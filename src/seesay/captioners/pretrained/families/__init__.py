"""Families of pretrained captioners, one file each; `FAMILIES` maps the `model_type` of a configuration to one."""

from seesay.captioners.pretrained.families.base import Family, Regions
from seesay.captioners.pretrained.families.blip import Blip
from seesay.captioners.pretrained.families.blip2 import Blip2, InstructBlip
from seesay.captioners.pretrained.families.chat import Chat
from seesay.captioners.pretrained.families.florence2 import Florence2
from seesay.captioners.pretrained.families.git import Git
from seesay.captioners.pretrained.families.paligemma import PaliGemma
from seesay.captioners.pretrained.families.vision_encoder_decoder import VisionEncoderDecoder

__all__ = ["FAMILIES", "Family", "Regions"]

FAMILIES: dict[str, type[Family]] = {
    model_type: family
    for family in (Blip, Blip2, InstructBlip, Git, VisionEncoderDecoder, Florence2, PaliGemma, Chat)
    for model_type in family.model_types
}
