"""Convert run folders written before the options were renamed (November 2026): `python examples/convert_run.py RUN...`.

Only `config.yaml` changes. Weights, vocabulary and metadata are read as they are.
"""

import sys
from pathlib import Path

import yaml

from seesay.files import write_atomically

RENAMED = {
    "model": {"heads": "num_heads", "layers": "num_layers"},
    "training": {"augment_flip": "hflip_prob", "augment_crop": "crop_fraction", "clip_gradients": "max_grad_norm"},
    "decoding": {
        "ban": "bad_words",
        "beam_groups": "num_beam_groups",
        "block_ngrams": "no_repeat_ngram_size",
        "diversity_strength": "diversity_penalty",
        "num_captions": "num_return_sequences",
        "require": "force_words",
    },
}


def convert(run: Path) -> None:
    """Rewrite the configuration of a run folder with the present names."""
    path = run / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for section, names in RENAMED.items():
        config[section] = {names.get(name, name): value for name, value in config[section].items()}
    if config["training"].pop("scst", None) is False:
        config["training"]["scst_weight"] = 0.0  # which now alone decides whether there is a second stage
    write_atomically(path, yaml.safe_dump(config, sort_keys=False).encode())
    print(f"converted {path}")


if __name__ == "__main__":
    for folder in sys.argv[1:] or sys.exit(__doc__):
        convert(Path(folder))
