"""Token files of Flickr8k and Flickr30k: `name.jpg#k<TAB>caption`, with split lists beside them."""

import re
from pathlib import Path

from seesay.data.readers.columns import ColumnNames
from seesay.data.readers.text import read_split_lists, read_text, text_lines
from seesay.data.records import Reading, Record, count, name_some

# Copies saved by an editor have spaces instead of the tab.
_LINE = re.compile(r"(?P<image>[^\t]+?)#(?P<number>\d+)(?:\t|\s+)(?P<caption>.*)", re.DOTALL)


def is_token_line(line: str) -> bool:
    """Return whether a line has the form `name#k<TAB>caption`."""
    return _LINE.fullmatch(line.strip()) is not None


def read_flickr(files: list[Path], split_lists: list[Path], requested: ColumnNames) -> Reading:
    """Return the records of token files; invalid lines are reported and skipped.

    Args:
        files: Token files.
        split_lists: Files such as `Flickr_8k.trainImages.txt`, one image name per line.
        requested: Unused; token files have no columns.
    """
    reading = Reading()
    for path in files:
        invalid = []
        for number, line in enumerate(text_lines(read_text(path, reading)), start=1):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                invalid.append(f"line {number} ({line.strip()[:40]!r})")
            else:
                reading.records.append(Record(match["image"].strip(), (match["caption"],), path.parent))
        if invalid:
            reading.problems.append(
                f"{path.name}: {count(len(invalid), 'line')} not name#number<TAB>caption: {name_some(invalid)}"
            )
    read_split_lists(split_lists, reading)
    return reading
