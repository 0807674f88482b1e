"""Captions that exercise each part of METEOR: hand-written, from templates, and random ones with many ties."""

import random
from collections.abc import Sequence

Case = tuple[str, list[str]]

# A hypothesis and its references, separated by bars.
WRITTEN = """
a dog runs on the grass | a dog runs on the grass
a dog runs on the grass | the grass is run on by a dog | a dog is running across the lawn
two dogs are running | a dog runs | dogs ran
the children played happily | a child plays | kids playing | the child was happily playing
women sit on benches | a woman sitting on a bench | a lady is seated upon the bench
a man is riding a bicycle | a man rides a bike | a guy on a bike | a person riding his bicycle
a big house next to a river | a large home beside a stream | the house is near to the river
a kid in front of a car | a child before an automobile | the boy stands in front of the auto
a picture of a sofa and a television | an image of a couch and a tv
the aeroplane is taking off | an airplane takes off | a plane departs from the airport
a a a a | a a a a a a
the the the cat | the cat the cat the cat
a man and a man and a man | a man and a woman and a man | a woman and a woman
a red ball a blue ball a green ball | a green ball a red ball a blue ball
a cat on a mat on a table | on a table on a mat a cat
b a b a b a | a b a b a b
dog | dog
dog | cat
dog | a dog | dogs | the hound
 | a dog runs on the grass
 | a dog | the cat | two birds
a | the
mr. smith has a no. 5 shirt | mr smith has a number 5 shirt | no. five is on the shirt of mr. smith
the u.s. flag is at 5 p.m. | the us flag at 5 pm | a flag of the u.s.a.
a well-known t-shirt | a well known t shirt | the t-shirt is well-known
the dog 's bone is n't here | the dogs bone isnt here | the dog's bone isn't here
it 's 1,000 people , 3.5 metres , and $ 5 | it's 1,000 people, 3.5 meters and $5
rock 'n' roll | rock and roll | rock ' n ' roll
he said `` hello '' | he said “hello” | he said "hello"
wait ... what ? | wait.. what | wait … what
a man -- a woman – a child | a man - a woman - a child
-lrb- a dog -rrb- | ( a dog )
a café with naïve crêpes | a cafe with naive crepes | the café has crêpes
你好 a dog 😀 | 你好 a cat 😀
ÉCOLE Ünïcode STRASSE | école ünïcode straße
50% off & more @ home #1 | 50 % off and more at home # 1
a/b c_d e+f | a / b c _ d e + f
the 1990s and the '90s | the 1990's and the 90s | in the nineties
teheran siblings | siblings teheran | tehran brothers
a dog ||| runs | a dog runs
people are walking down the street in the rain | a group of people walks along a rainy street
a young boy jumps into the swimming pool | a little boy leaps into a pool | the young child is diving into the water
several mice and geese were feeding | a mouse and a goose feed | mice , geese
he went there and she goes | he goes there and she went | they have gone
the better of the worst men | the good and the bad man | a best man
skies skis dying early only | sky ski die earlier lonely
the knives cut the leaves and loaves | a knife cuts a leaf and a loaf
added adding biologist inning | add adds biology innings
in spite of the rain they play | despite the rain they are playing | even though it rains they play
as well as a lot of people | and many people | also a great number of people
a man wearing a hat takes a picture | a man with a hat is taking a photograph | a photographer in a hat
there is a large number of cars in the parking lot | many cars are parked in the car park
"""

# Templates and words that the stages match with each other.
FRAMES = (
    "{det} {size} {who} {does} {where} {det} {place}",
    "{who} {does} {where} {place} {where} {det} {size} {place}",
    "{det} {who} and {det} {who} are {does} {where} {det} {place} .",
    "there is {det} {who} {where} {det} {place} , {does} with {det} {size} {who}",
)
CHOICES = {
    "det": ("a", "the", "an", "one", "this", "some", "two"),
    "size": ("big", "large", "small", "little", "tiny", "huge", "young", "old-fashioned"),
    "who": (
        "man",
        "men",
        "person",
        "woman",
        "women",
        "lady",
        "child",
        "children",
        "kid",
        "kids",
        "dog",
        "dogs",
        "hound",
    ),
    "does": ("runs", "running", "ran", "is running", "walks", "walking", "jumps", "leaps", "sits", "sitting", "plays"),
    "where": ("on", "upon", "in", "near", "next to", "close to", "beside", "in front of", "before", "at", "with"),
    "place": (
        "street",
        "road",
        "lawn",
        "grass",
        "house",
        "home",
        "bench",
        "beach",
        "water's edge",
        "car",
        "automobile",
    ),
}

# Few words with many matches: exact, stems, synonyms, paraphrases.
WORD_SETS = (
    ("a", "the", "dog", "cat"),
    ("a", "b", "a b", "b a", "c"),
    ("the", "a", "an", "of", "in", "on", "in the", "of the", "on a", "is", "was", "are", "to", "."),
    ("run", "runs", "running", "ran", "runner", "walk", "walks", "jog", "go", "goes", "went"),
    ("big", "large", "great", "small", "little", "a lot of", "many", "a large number of", "some", "much", "a great"),
    ("in front of", "before", "next to", "beside", "near", "close to", "the side of", "at", "by", "with", "along"),
    ("man", "men", "person", "people", "guy", "boy", "boys", "kid", "child", "children", "woman", "lady", "the", "a"),
    ("take", "takes", "taking", "a picture", "picture", "photo", "photograph", "take a picture", "image", "of", "a"),
    ("it's", "dog's", "'", "''", "don't", "5", "1,000", "u.s.", "t-shirt", "...", ",", "mr.", "no.", "a.b.", "-"),
)


def written() -> list[Case]:
    """Returns the hand-written captions."""
    rows = [line.split(" | ") for line in WRITTEN.strip("\n").split("\n")]
    return [(row[0].strip(), [text.strip() for text in row[1:]]) for row in rows]


def framed(count: int, seed: int) -> list[Case]:
    """Returns sentences from templates with random words."""
    draw = random.Random(seed)
    images = []
    for _ in range(count):
        frames = draw.sample(FRAMES, 2)
        texts = [_fill(draw, draw.choice(frames)) for _ in range(draw.randint(2, 6))]
        images.append((texts[0], texts[1:]))
    return images


def random_orders(count: int, seed: int, max_words: int = 14, words: Sequence[Sequence[str]] = WORD_SETS) -> list[Case]:
    """Returns captions of few distinct words in random order, with many optimal alignments."""
    draw = random.Random(seed)
    images = []
    for number in range(count):
        choices = words[number % len(words)]
        texts = [" ".join(draw.choices(choices, k=draw.randint(1, max_words))) for _ in range(draw.randint(2, 4))]
        images.append((texts[0], texts[1:]))
    return images


def sentences() -> list[Case]:
    """Returns the cases whose values from the jar are stored."""
    return written() + framed(120, seed=1) + random_orders(153, seed=2)


def _fill(draw: random.Random, frame: str) -> str:
    for name, choices in CHOICES.items():
        while f"{{{name}}}" in frame:
            frame = frame.replace(f"{{{name}}}", draw.choice(choices), 1)
    return frame
