"""Alt text from captions, after the guidance of the W3C: short, without "an image of", with a full stop."""

import re
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Style = Literal["plain", "alt-text"]
"""Form of the captions: as generated, or as alt text."""

MAX_CHARACTERS = 125
"""Screen readers split longer alternatives."""

BLANK_RANGE = 16
"""Maximum difference between two pixels of a blank image, in levels of 255 per channel: more than JPEG's noise."""

_KIND = r"(?:image|photo|photograph|picture|pic|snapshot)"
_SHOWS = (
    r"(?:showing|shows|depicting|depicts|displaying|displays|featuring|features|capturing|captures|containing|contains|"
    r"portrays|presents|is of|of)"
)
_LEAD = re.compile(
    rf"(?:(?:alt[- ]?text|caption|description|answer) ?: *"
    rf"|(?:(?:this|here|there|it) is |we (?:can )?see )?(?:an?|the|this|that) {_KIND} (?:that |which )?{_SHOWS} "
    rf"|{_KIND} {_SHOWS} "
    rf"|(?:in|on) (?:the|this|that) {_KIND},? (?:(?:we|you|one|i) can see |we see |i see )?"
    rf"|(?:we|you|one|i) can see )",
    re.IGNORECASE,
)
_CLOSE_UP = re.compile(rf"^(an? )?close[- ]?up (?:{_KIND}|shot|view) of ", re.IGNORECASE)
_TOKENIZED = re.compile(r"\s(?=[,;:.!?](?:\s|$)|['’](?:s|re|ve|ll|d|m)\b|n['’]t\b)")  # "a dog , a cat 's toy"
_MARKUP = "*_`# "
_QUOTED = re.compile(r"[\"'“‘]([^\"“”]*)[\"'”’]")
_END = re.compile(r"[.!?…。！？]+[\"'”’)]*$")
# After a full stop, unless it ends an initial or a short title ("J. Smith", "Dr. Smith"); after any 。！？.
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!\b[A-Z]\w\.)(?<!\b[A-Z]\w\w\.)\s+|(?<=[。！？])\s*")
_DANGLING = re.compile(
    r"[\s,;:–—-]+(?:a|an|the|and|or|but|of|in|on|at|to|by|for|from|with|near|next|over|under|behind|beside|into|onto|as|"
    r"is|are|that|which|while|who|his|her|its|their|this|these|those|some|very)$",
    re.IGNORECASE,
)


def alt_text(caption: str, limit: int = MAX_CHARACTERS) -> str:
    """Return a caption as alt text: sentence case, a full stop at the end, no "an image of", no tokenized punctuation.

    A caption that is longer than `limit` is cut after its last sentence that fits, else after the last word.

    Args:
        caption: a caption; an empty one stays empty.
        limit: maximum number of characters.
    """
    text = _TOKENIZED.sub("", " ".join(caption.split())).strip(_MARKUP)
    text = quoted[1].strip() if (quoted := _QUOTED.fullmatch(text)) else text
    while (lead := _LEAD.match(text)) and lead.end() < len(text):
        text = text[lead.end() :]
    text = _CLOSE_UP.sub(lambda found: f"{found[1] or 'a '}close-up of ", text)
    if not any(letter.isalnum() for letter in text):
        return ""
    if text.isupper() and " " in text:
        text = text.lower()
    return _cut(_stopped(text[0].upper() + text[1:]), limit)


def is_blank(pixels: NDArray[Any]) -> bool:
    """Return whether an image has a single colour or nearly so.

    Args:
        pixels: (height, width, 3) of uint8.
    """
    low, high = pixels.min(axis=(0, 1)).astype(int), pixels.max(axis=(0, 1)).astype(int)
    return bool(np.all(high - low <= BLANK_RANGE))


def _stopped(text: str) -> str:
    """Return a text that ends in one full stop, exclamation mark or question mark."""
    text = text.rstrip(" ,;:-–—")
    end = _END.search(text)
    if end is None:
        return text + _full_stop(text)
    if end[0].strip(".…") == "":  # any number of full stops
        return text[: end.start()].rstrip() + "."
    return text[: end.start()].rstrip() + end[0][0] + end[0].lstrip(".!?…。！？")


def _cut(text: str, limit: int) -> str:
    """Return at most `limit` characters: whole sentences if the first one fits, else whole words."""
    if len(text) <= limit:
        return text
    fitting = [found.start() for found in _SENTENCE_BREAK.finditer(text) if found.start() <= limit]
    if fitting:
        return text[: fitting[-1]].rstrip()
    stop = _full_stop(text)
    head = text[: limit - len(stop) + 1]
    # A text without spaces, such as Chinese or one very long word, is cut anywhere.
    head = head.rpartition(" ")[0] if " " in head else head[:-1]
    while (shorter := _DANGLING.sub("", head.rstrip(" ,;:-–—("))) != head:
        head = shorter
    return head + stop


def _full_stop(text: str) -> str:
    """Return the full stop of the text's script."""
    return "。" if re.search(r"[\u3040-\u30ff\u3400-\u9fff]$", text.rstrip(".。")) else "."
