"""Pretrained captioners of transformers (extra `hub`).

`download` finds the files of a model and `loading` loads it; `families` has what differs between architectures.
`captioner` has the interface of all captioners, and `splitting` finds batches that fit into memory. `steps` runs
seesay's own search on a model, `beam` the beam search of transformers, and `words` finds the tokens of banned
and required words.
"""

from seesay.captioners.pretrained.captioner import PretrainedCaptioner
from seesay.captioners.pretrained.loading import load_pretrained

__all__ = ["PretrainedCaptioner", "load_pretrained"]
