"""Random strings for the tokenizer, composed of pieces known to be difficult."""

import random

PIECES = tuple(
    """
    dog the A U.S U.S. Mr. Mr etc. No. no cannot gonna 'tis I'm don't DON'T can't it's dogs' o'clock 'em 'n'
    y'all Ol' t-shirt well-known 5 12 3.5 1,000 1/2 3/4 9:30 5'10" 1990s '90s $5 US$ # @ @foo #bar foo@bar.com
    www.foo.com http://a.b/c?d=e foo.com <b> </b> <br/> & &amp; &lt; &quot; and/or :) :-( ;) ^_^ ... -- - ! ?
    ?! , ; : " ' ` '' `` ( ) [ ] { } “ ” ‘ ’ – — … été naïve 你好 😀 € £5 ½ * ** _ __ / \\ | ~ + = % ^ x.y.z a.m.
    p.m. Inc. St. 's 'll n't -x x- 123-456-7890 (123) 555-1234 12/12/12 R&B Q&A
    """.split()  # noqa: SIM905
)

ALPHABETS = (
    tuple("abAB12 '-.\""),
    tuple(map(chr, range(32, 127))),
    tuple("nNtTsdmlrveVEo' aA’`"),
    tuple("0123456789 .,:/-$()+'\"%#"),
    tuple("<>&;abc =/!?'\"-ltgamp#1"),
    tuple(":;=-o*'()[]{}DPpd|\\@ <>^_.x~"),
    ("foo", ".com", ".net", "www.", "http://", *"@/.-ax_:?=&1# ", ".org", ".edu", ".html", ".jpg", "b "),
    tuple(map(chr, (*range(0, 10), *range(14, 33), *range(65, 75)))),
)


def odd_strings(count: int, seed: int) -> list[str]:
    """Returns random strings of difficult words, with and without spaces, and of difficult alphabets."""
    draw = random.Random(seed)
    return [_odd_string(draw, number % (len(ALPHABETS) + 3)) for number in range(count)]


def _odd_string(draw: random.Random, kind: int) -> str:
    if kind < len(ALPHABETS):
        return "".join(draw.choice(ALPHABETS[kind]) for _ in range(draw.randint(1, 14)))
    if kind == len(ALPHABETS):
        return " ".join(draw.choice(PIECES) for _ in range(draw.randint(1, 10)))
    if kind == len(ALPHABETS) + 1:
        return "".join(draw.choice(PIECES) + draw.choice((" ", "")) for _ in range(draw.randint(1, 8)))
    ranges = ((32, 126), (160, 0x24F), (0x300, 0x2027), (0x202A, 0x33FF), (0x1F300, 0x1F6FF))
    return "".join(chr(draw.randint(*draw.choice(ranges))) for _ in range(draw.randint(1, 12)))


def long_lines() -> list[str]:
    """Returns lines of about 10,000 characters that take a naive tokenizer minutes."""
    pieces = (
        "a",
        "a ",
        "a.",
        "a-",
        "1,",
        "(",
        "'",
        "<a ",
        "<a b ",
        "a@",
        "www.a.",
        "1 1/2 ",
        ". ",
        "é",
        "a/",
        "&amp;",
    )
    more = ("-", "😀", "A&", "a:", "x.com/", "B. The ", "a cat. ", "`", "*\\")
    return [piece * (10_000 // len(piece)) for piece in pieces + more]
