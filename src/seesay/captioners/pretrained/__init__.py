"""Pretrained captioners of transformers (extra `hub`): BLIP, BLIP-2, GIT, ViT-GPT2, Florence-2, PaliGemma, chat models.

`download` finds the files of a model, `loading` loads it, `families` has what differs between architectures, `captioner`
the interface of all captioners, `steps` and `beam` the two searches: seesay's own and transformers' beam search.
"""

from seesay.captioners.pretrained.captioner import PretrainedCaptioner
from seesay.captioners.pretrained.loading import load_pretrained

__all__ = ["PretrainedCaptioner", "load_pretrained"]
