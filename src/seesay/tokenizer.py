"""Tokenizer: captions to token ids and back.

Cleaning and splitting are a pipeline of the `tokenizers` library, so that building and encoding agree, and the saved
`tokenizer.json` gives the same ids in any program that reads such files.
"""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from seesay.config import TextConfig
from seesay.errors import CheckpointError, DataError
from seesay.files import write_atomically

PAD, START, END, UNK = "<pad>", "<start>", "<end>", "<unk>"
SPECIALS = (PAD, START, END, UNK)
PAD_ID, START_ID, END_ID, UNK_ID = range(4)

# The library rejects unknown keys at the top level of its file but ignores them within the model.
_CONFIG_KEY = "seesay_text"


class Tokenizer:
    """An immutable vocabulary with its cleaning and splitting rules.

    Attributes:
        config: the rules.
        vocabulary: words by id; the four special tokens first, then words by decreasing count.
    """

    def __init__(self, library: tokenizers.Tokenizer, config: TextConfig) -> None:
        self._library = library
        self.config = config
        ids = library.get_vocab(with_added_tokens=False)
        self.vocabulary: list[str] = sorted(ids, key=ids.__getitem__)
        if tuple(self.vocabulary[:4]) != SPECIALS or sorted(ids.values()) != list(range(len(ids))):
            raise CheckpointError(f"a vocabulary must start with {' '.join(SPECIALS)} and have consecutive ids")
        self._known = frozenset(self.vocabulary[4:])

    @classmethod
    def build(cls, captions: Iterable[str], config: TextConfig) -> "Tokenizer":
        """Returns a tokenizer with the vocabulary of captions.

        Words are ordered by decreasing count, then alphabetically. Words beyond `config.max_words` of a caption do not
        count, because training truncates them.

        Raises:
            DataError: the vocabulary would be empty.
        """
        counts = Counter(itertools.chain.from_iterable(map(cls.without_words(config)._units, captions)))
        del counts[UNK]
        ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        words = [word for word, count in ordered if count >= config.min_count]
        if not words:
            raise DataError(
                f"no {config.level} remains for the vocabulary ({len(counts)} found in the captions); "
                "check the captions, text.min_count and the cleaning rules"
            )
        return cls(_pipeline(words[: config.vocabulary_size or None], config), config)

    @classmethod
    def without_words(cls, config: TextConfig) -> "Tokenizer":
        """Returns a tokenizer with an empty vocabulary, which cleans and splits as usual."""
        return cls(_pipeline([], config), config)

    @classmethod
    def can_build(cls, captions: Iterable[str], config: TextConfig) -> bool:
        """Returns whether `build` would find a word; stops at the first one."""
        rules, counts = cls.without_words(config), Counter[str]()
        for caption in captions:
            units = [unit for unit in rules._units(caption) if unit != UNK]
            counts.update(units)
            if any(counts[unit] >= config.min_count for unit in units):
                return True
        return False

    def __len__(self) -> int:
        """Returns the vocabulary size V, including special tokens."""
        return len(self.vocabulary)

    def clean(self, caption: str) -> str:
        """Returns the cleaned caption: words separated by single spaces."""
        # Lone surrogates (possible in JSON) become question marks.
        text = caption.encode("utf-8", "replace").decode("utf-8")
        return str(self._library.normalizer.normalize_str(text))

    def encode(self, caption: str) -> list[int]:
        """Returns the token ids of a caption: start, at most `config.max_words` words, end."""
        return list(self._library.encode(caption.encode("utf-8", "replace").decode("utf-8")).ids)

    def words(self, tokens: Sequence[int]) -> list[str]:
        """Returns the words of token ids up to the first end token, without start and padding.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        found = []
        for token in map(int, tokens):
            if token == END_ID:
                break
            if not 0 <= token < len(self.vocabulary):
                raise DataError(f"token id {token} is outside the vocabulary of {len(self.vocabulary)}")
            if token not in (PAD_ID, START_ID):
                found.append(self.vocabulary[token])
        return found

    def decode(self, tokens: Sequence[int]) -> str:
        """Returns the caption of token ids.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        return ("" if self.config.level == "character" else " ").join(self.words(tokens))

    def oov_rate(self, captions: Iterable[str]) -> float:
        """Returns the fraction of words (0..1) that are not in the vocabulary; 0 without words."""
        total = missing = 0
        for caption in captions:
            units = self._split(self.clean(caption))
            total += len(units)
            missing += sum(unit not in self._known for unit in units)
        return missing / total if total else 0.0

    def save(self, path: str | Path) -> None:
        """Writes `tokenizer.json` atomically.

        Raises:
            SeesayError: it cannot be written.
        """
        content = json.loads(self._library.to_str())
        content["model"][_CONFIG_KEY] = self.config.model_dump()
        write_atomically(Path(path), json.dumps(content, ensure_ascii=False, indent=1).encode())

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Loads a saved tokenizer.

        Raises:
            CheckpointError: the file is missing, damaged or not a tokenizer of seesay.
        """
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            config = TextConfig(**content["model"][_CONFIG_KEY])
            return cls(_from_json(json.dumps(content)), config)
        except FileNotFoundError as error:
            raise CheckpointError(f"{path}: no such file; a run folder must contain its tokenizer") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{path}: damaged, or not a tokenizer of seesay ({reason}); copy it from the run again"
            ) from error

    def _split(self, cleaned: str) -> list[str]:
        """Returns the words (or characters) of a cleaned caption."""
        return [unit for unit, _ in self._library.pre_tokenizer.pre_tokenize_str(cleaned)]

    def _units(self, caption: str) -> list[str]:
        """Returns the words (or characters) that `encode` looks up, truncated to `max_words`."""
        return self._split(self.clean(caption))[: self.config.max_words or None]


def _from_json(content: str) -> tokenizers.Tokenizer:
    """Returns the library's tokenizer; raises ValueError if the content is invalid."""
    try:
        return tokenizers.Tokenizer.from_str(content)
    except Exception as error:  # the library raises bare Exception
        raise ValueError(str(error)) from error


def _pipeline(words: Sequence[str], config: TextConfig) -> tokenizers.Tokenizer:
    """Returns the library's tokenizer of special tokens and words."""
    model, splitter, joiner = _level(words, config)
    library = tokenizers.Tokenizer(model)
    library.normalizer = _cleaning(config)
    library.pre_tokenizer = splitter
    if joiner is not None:
        library.decoder = joiner
    library.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, START_ID), (END, END_ID)]
    )
    if config.max_words:
        library.enable_truncation(config.max_words + 2)  # includes start and end
    return library


def _level(words: Sequence[str], config: TextConfig) -> tuple[Any, Any, Any]:
    """Returns model, pre-tokenizer and decoder for the level of a vocabulary."""
    vocabulary = {word: number for number, word in enumerate((*SPECIALS, *words))}
    model = models.WordLevel(vocabulary, unk_token=UNK)
    if config.level == "character":
        return model, pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated"), decoders.Fuse()
    return model, pre_tokenizers.WhitespaceSplit(), None


def _cleaning(config: TextConfig) -> normalizers.Normalizer:
    """Returns the cleaning rules of a configuration as a normalizer."""
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if config.lowercase else []
    # Composed and decomposed accented letters must give the same word.
    steps.append(normalizers.NFC())
    if config.filter_characters:
        # Escaped by code point, so that no character has a special meaning in the brackets.
        listed = "".join(f"\\x{{{ord(character):x}}}" for character in config.filter_characters)
        steps.append(normalizers.Replace(Regex(f"[{listed}]"), " "))
    if config.drop_numeric:
        # Marks belong to letters; otherwise all words of Hindi or Thai would be dropped.
        steps.append(normalizers.Replace(Regex(r"(?<!\S)\S*[^\p{L}\p{M}\s]\S*(?!\S)"), ""))
    if config.min_word_length > 1:
        steps.append(normalizers.Replace(Regex(rf"(?<!\S)\S{{1,{config.min_word_length - 1}}}(?!\S)"), ""))
    if config.level == "word":
        # Special tokens in the text of a caption are not special.
        steps.append(normalizers.Replace(Regex(rf"(?<!\S)(?:{PAD}|{START}|{END})(?!\S)"), UNK))
    steps += [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    return normalizers.Sequence(steps)
