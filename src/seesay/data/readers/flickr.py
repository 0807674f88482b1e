"""The token files of Flickr8k and Flickr30k: `name.jpg#k<TAB>caption`, with split lists beside them."""

import re
from pathlib import Path

from seesay.data.readers.columns import ColumnNames
from seesay.data.readers.text import read_split_lists, read_text, text_lines
from seesay.data.records import Reading, Record, count, name_some

# The tab is a run of spaces in copies that went through an editor.
_LINE = re.compile(r"(?P<image>[^\t]+?)#(?P<number>\d+)(?:\t|\s+)(?P<caption>.*)", re.DOTALL)


def is_token_line(line: str) -> bool:
    """Tells whether a line reads `name#k<TAB>caption`."""
    return _LINE.fullmatch(line.strip()) is not None


def read_flickr(files: list[Path], split_lists: list[Path], wanted: ColumnNames) -> Reading:
    """Returns the records of token files; lines of another form are noted and passed over.

    Args:
        files: Token files; more than one are read as one.
        split_lists: Files such as `Flickr_8k.trainImages.txt`, one image name a line.
        wanted: Of no use, as token files have no columns.
    """
    reading = Reading()
    for path in files:
        junk = []
        for number, line in enumerate(text_lines(read_text(path, reading)), start=1):
            if not line.strip():
                continue
            match = _LINE.fullmatch(line.strip())
            if match is None:
                junk.append(f"line {number} ({line.strip()[:40]!r})")
            else:
                reading.records.append(Record(match["image"].strip(), (match["caption"],), path.parent))
        if junk:
            reading.problems.append(
                f"{path.name}: {count(len(junk), 'line')} not of the form name#number, tab, caption: {name_some(junk)}"
            )
    read_split_lists(split_lists, reading)
    return reading
