"""Small METEOR tables, for tests without pycocoevalcap."""

import gzip
import zipfile
from pathlib import Path

FILES = {
    "function/english.words": "a\nthe\non\nof\nin\n",
    "nonbreaking/english.prefixes": "# with their period\nMr\ne.g\nNo #NUMERIC_ONLY#\n",
    "synonym/english.synsets": "dog\n00000001 00000002\nhound\n00000002\nwoman\n7\nlady\n7\nfly\n9\nglide\n9\n",
    "synonym/english.exceptions": "woman\nwomen\nfly\nflew flown\n",
}
PARAPHRASES = (
    ("in front of", "before"),
    ("before", "in front of"),
    ("on", "upon"),
    ("sofa", "couch"),
    ("take a picture", "photograph"),
)


def write_tables(folder: Path) -> Path:
    """Returns a folder with small versions of METEOR's files."""
    (folder / "data").mkdir(parents=True)
    with zipfile.ZipFile(folder / "meteor-1.5.jar", "w") as jar:
        for name, text in FILES.items():
            jar.writestr(name, text)
    rows = "".join(f"0.25\n{phrase}\n{other}\n" for phrase, other in PARAPHRASES)
    (folder / "data/paraphrase-en.gz").write_bytes(gzip.compress(rows.encode()))
    return folder
