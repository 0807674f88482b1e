"""Rules that find unusable captions: empty texts, refusals, loops and other known failures of captioning models.

The rules read only the text and are tuned to accept what people write: `docs/collections.md` states how many human
captions they reject. `Captioner` applies them to what a model generated.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from seesay.config import DecodingOptions
from seesay.errors import ConfigError

EMPTY = "empty"
SPECIAL_TOKENS = "only special tokens"
REASONING = "reasoning"
PUNCTUATION = "punctuation"
REFUSAL = "refusal"
PROMPT_ECHO = "prompt echo"
REPETITION = "repetition"
CUT = "cut in mid-sentence"

RETRY_BEAM, RETRY_NGRAM = 3, 3
RETRY_TEMPERATURE, RETRY_SEED = 0.7, 1
"""Settings of the second attempt; see `retry_options`."""

_LONG_PROMPT = 6  # words: a longer prompt is an instruction, a shorter one may be the intended start of the caption
_SHORT_ECHO = 4  # words: the start of a prompt that is no caption
_LONGEST_CYCLE = 40  # words of a repeated passage

_SPECIAL = r"(?:<\|[^|<>]{1,40}\|>|</?(?:s|pad|bos|eos|start|end|start_of_turn|end_of_turn)>|\[(?:PAD|CLS|SEP)\])"
_SPECIAL_ENDS = re.compile(rf"^(?:{_SPECIAL}\s*)+|(?:\s*{_SPECIAL})+$")
_UNKNOWN_WORDS = re.compile(r"(?:(?:<unk>|\[UNK\])\s*)+")  # part of a caption, unless there is nothing else
# The first alternative of each: models of the Qwen, GLM and DeepSeek families; the second: Kimi-VL.
_THINK_OPEN = re.compile(r"<(?:think|thinking|reasoning)>|◁think▷", re.IGNORECASE)
_THINK_CLOSE = re.compile(r"</(?:think|thinking|reasoning)>|◁/think▷", re.IGNORECASE)
_ANSWER = re.compile(r"</?answer>|<\|(?:begin|end)_of_box\|>", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’»)\]]*$")
_PUNCTUATION_RUN = re.compile(r"([^\w\s.])(?:\s*\1){4,}|\.(?:\s*\.){9,}")
_LETTER_LOOP = re.compile(r"([^\W\d_]{1,12}?)\1{7,}")
_WORD = re.compile(r"\w+(?:['’]\w+)*")

_CANNOT = (
    r"i(?: am|['’]m)? (?:can['’]?t|cannot|can not|could(?:n['’]t| not)|do(?:n['’]t| not)|wo(?:n['’]t|uld not)|will not|"
    r"unable to|not able to|not comfortable)"
)
_TASK = (
    r"(?:see|view|assist|help|provid|describ|identify|process|analy[sz]|interpret|fulfil|comply|access|generat|creat|"
    r"caption|display|open|engag|discuss|recogni[sz]|hav(?:e|ing) (?:the|any|an) (?:ability|capability|image|access)|"
    r"possess)"
)
_ASSISTANT = r"an? (?:\w+ )?(?:ai|artificial intelligence|(?:large )?language model|text[- ]based)\b"
_PICTURE = r"(?:image|photo|photograph|picture)s?"
_SEEMS = r"it (?:seems|looks|appears) (?:(?:like|that|as if|as though) )?"
_REFUSAL = re.compile(
    "|".join(
        (
            r"(?:i['’]m|i am|we['’]re) (?:(?:very|really|so|terribly) )?sorry\b",
            r"(?:(?:very|so) )?sorry(?:[,.!]|$| (?:but|i|we|for|about|to|that)\b)",
            r"(?:my )?apologies\b[,.! ]|i (?:sincerely |do )?apologi[sz]e\b",
            r"unfortunately,? (?:i|we|as an ai|the image|there is no)\b",
            rf"(?:as|being|i['’]m|i am)(?: just| only)? {_ASSISTANT}",
            rf"{_CANNOT}(?: \w+){{0,3}} {_TASK}",
            rf"(?:there (?:is|was) )?no {_PICTURE} (?:\w+ )?(?:(?:is|was|has been) )?"
            r"(?:provided|attached|uploaded|included|available|to describe)\b",
            rf"please (?:provide|upload|share|attach|send)(?: me)?(?: with)? (?:the|an?|your) (?:\w+ )?{_PICTURE}",
            rf"{_SEEMS}(?:there (?:is|was) no|no|you (?:forgot|(?:did|have)(?: not|n['’]t))(?: \w+){{0,2}}) "
            rf"(?:(?:the|any|an?) )?(?:\w+ )?{_PICTURE}\b",
            rf"{_SEEMS}(?:(?:the|your|an?) )?{_PICTURE}\b.{{0,30}}\b"
            r"(?:missing|attached|uploaded|provided|included|load|loaded|accessible)\b",
            r"(?:es tut mir leid|leider kann ich|ich kann (?:\w+ ){0,4}nicht)\b",
            r"(?:je suis désolée?|désolée?,|je ne (?:peux|suis) pas)\b",
            r"(?:lo siento|no puedo (?:ver|ayudar|describir|proporcionar))\b",
            r"(?:mi dispiace,|non posso|desculpe,|sinto muito|não posso)\b",
            r"(?:很|非常)?抱歉|对不起|對不起|我无法|我無法|申し訳",
        )
    ),
    re.IGNORECASE,
)


def rejection_reason(text: str, *, prompt: str = "", finished: bool = True) -> str:
    """Return why a text is not usable as a caption; empty: it is usable.

    Args:
        text: what the model generated.
        prompt: the instruction that it was generated from.
        finished: False if the text reached the maximum length.
    """
    cleaned = clean(text)
    if not cleaned:
        return _nothing_left(text)
    if _UNKNOWN_WORDS.fullmatch(cleaned):
        return SPECIAL_TOKENS
    if _THINK_OPEN.search(cleaned) or _THINK_CLOSE.search(cleaned):
        return REASONING
    if not any(letter.isalnum() for letter in cleaned) or _PUNCTUATION_RUN.search(cleaned):
        return PUNCTUATION
    if _REFUSAL.match(cleaned.lstrip("\"'“‘*_ ")):
        return REFUSAL
    words = _words(cleaned)
    if _echoes(words, _words(prompt)):
        return PROMPT_ECHO
    if _LETTER_LOOP.search(cleaned) or _loops(words):
        return REPETITION
    return "" if finished or _SENTENCE_END.search(cleaned) else CUT


def clean(text: str) -> str:
    """Return a text without a closed block of reasoning and without special tokens at its ends."""
    text = text.strip()
    closes = list(_THINK_CLOSE.finditer(text))
    if closes:  # chat templates often contain the opening tag, so that only the closing one is generated
        text = text[closes[-1].end() :]
    text = _ANSWER.sub("", text).strip()
    return _SPECIAL_ENDS.sub("", text).strip()


def summarize_rejections(counts: Mapping[str, int]) -> str:
    """Return the numbers per reason, most frequent first, such as `3 rejected (2 empty, 1 repetition)`."""
    parts = ", ".join(f"{number} {reason}" for reason, number in Counter(counts).most_common())
    return f"{sum(counts.values())} rejected ({parts})"


def count_rejections(texts: Iterable[str]) -> Counter[str]:
    """Return the number of unusable texts per reason."""
    return Counter(filter(None, map(rejection_reason, texts)))


def retry_options(options: DecodingOptions, reason: str) -> Iterator[DecodingOptions]:
    """Yield the settings of a second attempt, preferred ones first; a captioner may refuse some.

    A caption that was cut gets twice the length. Otherwise a beam search of 3 without repeated trigrams, or sampling
    with temperature 0.7 and seed 1: the search first against empty captions and loops, sampling first against texts
    that the model prefers as a whole, such as refusals. Sampling is left out if words are required.

    Args:
        options: of the first attempt, with the maximum length set; 0: unknown.
        reason: from `rejection_reason`.
    """
    if reason == CUT:
        if options.max_length:
            yield options.replace(max_length=2 * options.max_length)
        return
    search = {"beam_size": max(RETRY_BEAM, options.num_return_sequences), "no_repeat_ngram_size": RETRY_NGRAM}
    sample = {"temperature": RETRY_TEMPERATURE, "sampling_seed": options.sampling_seed + RETRY_SEED}
    attempts: list[tuple[str, dict[str, Any]]] = [("beam", search), ("sample", sample)]
    for strategy, values in attempts if reason in (EMPTY, REPETITION) else reversed(attempts):
        if strategy == "sample" and options.force_words:
            continue
        try:
            changed = _with_strategy(options, strategy).replace(min_length=max(1, options.min_length), **values)
        except ConfigError:  # the combination is not possible, for example with several beam groups
            continue
        if changed != options:
            yield changed


def _with_strategy(options: DecodingOptions, strategy: str) -> DecodingOptions:
    if strategy == options.strategy:
        return options
    return options.with_strategy("beam" if strategy == "beam" else "sample")


def _nothing_left(text: str) -> str:
    """Return the reason for a text of which nothing is left after cleaning."""
    if _THINK_CLOSE.search(text) or _THINK_OPEN.search(text):
        return REASONING
    return SPECIAL_TOKENS if text.strip() else EMPTY


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _echoes(words: Sequence[str], prompt: Sequence[str]) -> bool:
    """Return whether words are those of the prompt, once or repeated, or begin with a long prompt."""
    if not prompt or not words:
        return False
    length = len(prompt)
    if len(words) >= length:
        repeated = all(word == prompt[place % length] for place, word in enumerate(words))
        return repeated or (length >= _LONG_PROMPT and list(words[:length]) == list(prompt))
    return len(words) >= _SHORT_ECHO and list(words) == list(prompt[: len(words)])


def _loops(words: Sequence[str]) -> bool:
    """Return whether a passage is repeated: in direct succession, or one trigram over half of the words."""
    for size in range(1, min(_LONGEST_CYCLE, len(words) // 2) + 1):
        least = 4 if size == 1 else 3 if size < 5 else 2
        run = 0  # words that equal the one `size` places before
        for place in range(size, len(words)):
            run = run + 1 if words[place] == words[place - size] else 0
            if run >= size * (least - 1):
                return True
    trigrams = Counter(zip(words, words[1:], words[2:], strict=False))
    most = max(trigrams.values(), default=0)
    return most >= 4 and 3 * most >= len(words) / 2
