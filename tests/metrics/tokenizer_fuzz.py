"""Search for text that is tokenized differently from the Java tokenizer of pycocoevalcap.

python -m tests.metrics.tokenizer_fuzz --count 2000000 --seed 1

Generates random text as in captions, alt texts, signs, web pages and code, tokenizes it with both tokenizers and
prints the differences. The jar tokenizes each string twice, in one process per batch: followed by another line, as in
a file of captions, and at the end of a file. Ours must equal the first. Differences to the second are only counted:
it lacks the line break that some rules require. Needs a JDK and pycocoevalcap.
"""

import argparse
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from seesay.metrics.tokenize import PUNCTUATION, tokenize
from tests.metrics.fuzz import PIECES

BATCH = 250_000
HARNESS = Path(__file__).with_name("Cut.java")
BREAKS = re.compile("[\n\r\v\f\u2028\u2029]")

WORDS: tuple[str, ...] = tuple(
    """
    a the A The THE These They This That Mr. Mrs. Dr. St. Ave. Blvd. Jr. Inc. Ltd. Co. Corp. Ph.D. M.D. U.S. U.K. U.S.A.
    e.g. i.e. a.m. p.m. a.k.a. etc. vs. No. no. Nos. Fig. fig. pp. ca. approx. est. Jan. Feb. Sept. Mon. Tues. Calif.
    Mass. mass. Wash. wash. Tex. Miss. miss. Ill. ill. Insp. Msgr. Univ. Pty. Pte. Prof. Sen. Gen. Sgt. mt. Mt. Bros.
    man woman dog cat girl boys people street bus sign text panel B. C. vitamin plan x y I OK Wi-Fi T-shirt well-known
    don't can't isn't I'm they're she'd we've it's dog's dogs' o'clock y'all ma'am 'em 'tis 'twas rock'n'roll O'Brien
    d'Or l'eau c'est cap'n ol' cannot gonna wanna gotta gimme lemme C++ c++ C# F# R&B Q&A AT&T S&P-500 M&M's node.js
    image.jpg IMG_2041.JPG photo.png main.py index.html README.txt file.tar.gz .jpg a.b.c v1.2.3 3D 4K 1080p H2O CO2
    5kg 12mm 3.5cm 100km/h 20°C 98.6°F 50% 1,000 1,234.56 3.14 -5 +7 ±2 1/2 3/4 1 1/2 2/3 ½ ¼ 10th 1st 2nd 90s '90s
    1990s '90 9:30 10:45am 12/25/2019 2019-12-25 25.12.2019 1-800-555-1234 (555) 123-4567 555.123.4567 +49 30 123456
    $5 $1.50 US$20 €20 £3.99 ¥500 5¢ ₹100 #1 # 1 No.5 @user @ #tag #été user@example.com info@mail.example.co.uk
    www.example.com http://example.com/a?b=c&d=e#f https://a.b/c.html example.org/path ftp://x.y foo.com. 127.0.0.1
    :-) :) ;-) :D :P <3 ^_^ (^_^) -_- >_< xD =) :/ :| 😀 👍🏽 ❤ ❤️ ★ ✓ → © ® ™ • · § ¶ † … café naïve Zoë Straße 你好
    日本語 привет ٣ שלום é ﬁ Ⅷ ² ³ H₂O x² 10⁶ µm Å ½cup
    """.split()  # noqa: SIM905
)
# Punctuation marks and spaces of the basic plane that occur in English text, and some letters.
MARKS: tuple[str, ...] = (
    *".,;:!?'\"`()[]{}<>/\\|-_=+*&%$#@^~",
    *map(chr, (*range(0x80, 0xC0), 0xD7, 0xF7, *range(0x2000, 0x2070), *range(0x20A0, 0x20C0), 0x2116, 0x2122)),
    *"\t\u3000\u3001\u3002\u300c\u300d\u30fb\uff01\uff0c\uff0e\uff1a\uff1f\uff20\ufeff\ufffd\u02bc\u0301\u05be\u061f",
    *"\u0131\u0130\u017f\u212a\u2212\u2044\u2215\u207a\u2080\u2160\u24b6\u2605\u2713\u266a",
)
ENTITIES = tuple(
    "amp lt gt quot apos nbsp mdash ndash hellip lsquo ldquo eacute uuml agrave copy #39 #8217 #x27".split()  # noqa: SIM905
)
TAGS = ("b", "br", "p", "img", "a", "div", "span", "h1", "o:p", "!DOCTYPE html", "!-- x --", "?xml version='1.0'?")
CODE = (
    *(
        "if (x == 1) { return a[i]; }",
        "int main(void)",
        "x += y; // z",
        "def f(x): return x*2",
        "a->b",
        "std::cout << x",
    ),
    *(
        "SELECT * FROM t WHERE id=1;",
        "$HOME/.bashrc",
        "C:\\Users\\me\\a.txt",
        "/usr/bin/env",
        "{'k': \"v\"}",
        "<?php ?>",
    ),
    *("a && b || !c", "\\n\\t", "#include <stdio.h>", "foo_bar(baz)", "x/*y*/", "--help", "s.split(',')", "A|B", "~/x"),
)


def realistic_strings(count: int, seed: int) -> Iterator[str]:
    """Yields random strings that resemble captions, alt texts, recognised text, web pages or code."""
    draw = random.Random(seed)
    for _ in range(count):
        parts = [_part(draw) for _ in range(draw.choice((1, 2, 3, 3, 4, 5, 6, 8)))]
        text = "".join(part + draw.choice((" ", " ", " ", " ", "", "  ", draw.choice(MARKS))) for part in parts)
        yield BREAKS.sub(" ", _corrupt(draw, text) if draw.random() < 0.2 else text)


def _part(draw: random.Random) -> str:
    kind = draw.randrange(14)
    word = draw.choice(WORDS if draw.random() < 0.8 else PIECES)
    if kind < 5:
        return word
    if kind == 5:
        return draw.choice((word.upper(), word.lower(), word.title(), word.swapcase()))
    if kind == 6:
        return word + draw.choice(MARKS)
    if kind == 7:
        return draw.choice(MARKS) + word + draw.choice(MARKS)
    if kind == 8:
        return word + draw.choice(MARKS) + draw.choice(WORDS)
    if kind == 9:
        entity = draw.choice(ENTITIES)
        name = draw.choice((entity, entity, entity.upper(), entity.title()))
        return draw.choice(("", word)) + f"&{name}{draw.choice((';', ';', ';', ''))}" + draw.choice(("", word))
    if kind == 10:
        return _tag(draw, word)
    if kind == 11:
        return _number(draw)
    if kind == 12:
        return draw.choice(CODE)
    return (
        word[: draw.randint(1, 4)] + draw.choice(("'", "’", "‘", "`", "-", ".", "/", "_")) + word[-draw.randint(1, 3) :]
    )


def _tag(draw: random.Random, word: str) -> str:
    name = draw.choice(TAGS)
    name = draw.choice((name, name.upper()))
    attribute = draw.choice(
        ("", "", f' alt="{word}"', f" class='{word}'", f" id={word}", " disabled", f' title = "{word} x"')
    )
    return (
        draw.choice(("<", "</", "&lt;")) + name + attribute + draw.choice((">", "/>", " />", " >", "/ >", "&gt;", ""))
    )


def _number(draw: random.Random) -> str:
    digits = [str(draw.randrange(10 ** draw.randint(1, 5))) for _ in range(draw.randint(1, 4))]
    text = draw.choice(("", "", "-", "+", "$", "€", "#", "(", "~", ".")) + digits[0]
    for more in digits[1:]:
        text += draw.choice((".", ",", ":", "/", "-", " ", " x ", "x", "×", "–", "⁄", ") ", "\u00a0", "'", "e")) + more
    return text + draw.choice(
        ("", "", "%", "°", "th", "s", "'s", '"', "′", "kg", " km", "am", "p.m.", "-year-old", "mm²")
    )


def _corrupt(draw: random.Random, text: str) -> str:
    """Returns a text with simulated recognition errors: characters lost, doubled or replaced."""
    characters = list(text)
    for _ in range(draw.randint(1, 3)):
        start = draw.randrange(len(characters) + 1)
        characters[start : start + draw.randint(0, 2)] = draw.choice(
            (*MARKS, "l", "I", "1", "O", "0", "S", "s", "t", " ")
        )
    return "".join(characters)


def jar_tokens(lines: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the jar's tokens of each line without punctuation: followed by a line, and at the end of a file."""
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = Path(ptbtokenizer.__file__).parent / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = ["java", "-XX:+UseSerialGC", "-cp", str(jar), str(HARNESS)]
    done = subprocess.run(
        command, input="".join(f"{line}\n" for line in lines).encode(), capture_output=True, check=True
    )
    found = [_without_punctuation(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert len(found) == 2 * len(lines)
    return found[::2], found[1::2]


def _without_punctuation(line: str) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in PUNCTUATION)


def differences(lines: Sequence[str]) -> tuple[list[tuple[str, str, str]], int]:
    """Returns strings with different tokenizations (the jar's, ours), and the number of strings that the file end
    changes."""
    followed, last = jar_tokens(lines)
    rows = zip(lines, followed, tokenize(lines), strict=True)
    return [row for row in rows if row[1] != row[2]], sum(a != b for a, b in zip(followed, last, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200_000, help="number of strings")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    strings = realistic_strings(options.count, options.seed)
    done = different = at_end = 0
    while batch := [line for line, _ in zip(strings, range(BATCH), strict=False)]:
        rows, ends = differences(batch)
        for line, expected, ours in rows:
            print(f"{line!r}\n  jar  {expected!r}\n  ours {ours!r}", flush=True)
        done, different, at_end = done + len(batch), different + len(rows), at_end + ends
        print(f"{done} strings: {different} differ; the end of the file changes {at_end} in the jar", flush=True)


if __name__ == "__main__":
    main()
