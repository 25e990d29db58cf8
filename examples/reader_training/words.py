"""A seeded random generator becomes the words printed on training pages.

Sources of words: plain English (`words.txt`, harvested from docstrings of Python's standard
library), random strings, numbers, money, dates and the columns of invoices. The English list is
split by hash, so that held-out pages hold words no training page ever showed.
Knows nothing of fonts or pixels. No word contains a space: pages separate words by single spaces.
"""

from __future__ import annotations

import string
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from random import Random

WORDS_FILE = Path(__file__).with_name("words.txt")
HELD_OUT_SHARE = 10  # one word in ten is held out
# fmt: off
COMMON = (
    "the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "as", "was", "with", "be", "by",
    "on", "not", "he", "his", "but", "at", "are", "this",
)
ITEMS = (
    "Item", "Qty", "Total", "Net", "Tax", "VAT", "Sum", "Due", "Date", "No.", "Ref", "Order",
    "Unit", "Price", "Amount", "Invoice",
)
# fmt: on
SYMBOLS = string.ascii_letters + string.digits + string.punctuation
ALPHANUMERIC = string.ascii_letters + string.digits
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


@lru_cache(maxsize=2)
def english_words(held_out: bool) -> tuple[str, ...]:
    """The words of one side of the split, in the order of the file."""
    words = WORDS_FILE.read_text(encoding="ascii").split()
    return tuple(w for w in words if is_held_out(w) == held_out)


def is_held_out(word: str) -> bool:
    """Whether only held-out pages may print this English word; the same on every machine."""
    return zlib.crc32(word.encode()) % HELD_OUT_SHARE == 0


def prose(rng: Random, held_out: bool) -> Iterator[str]:
    """Sentences: capital first, full stop last, common words in between."""
    words = english_words(held_out)
    while True:
        length = rng.randint(3, 14)
        for i in range(length):
            common = not held_out and rng.random() < 0.25
            word = rng.choice(COMMON) if common else rng.choice(words)
            word = word.capitalize() if i == 0 else word
            yield word + (_ending(rng) if i == length - 1 else "," * (rng.random() < 0.06))


def _ending(rng: Random) -> str:
    return rng.choice([".", ".", ".", ".", "?", "!", ":", ";"])


def shuffled(rng: Random, held_out: bool) -> Iterator[str]:
    """Words of unusual cases and joints, where a language prior helps little."""
    words = english_words(held_out)
    shapes: list[Callable[[str], str]] = [
        str.lower,
        str.upper,
        str.capitalize,
        lambda w: f"({w})",
        lambda w: f'"{w}"',
        lambda w: f"{w}-{rng.choice(words)}",
        lambda w: f"{w}'s",
        lambda w: f"{w.capitalize()}{rng.choice(words).capitalize()}",
        lambda w: f"{w}_{rng.randint(0, 99)}",
    ]
    while True:
        yield rng.choice(shapes)(rng.choice(words))


def random_strings(rng: Random, held_out: bool) -> Iterator[str]:
    """Strings without any prior; `held_out` makes no difference but the caller's seed."""
    while True:
        alphabet = rng.choice([SYMBOLS, ALPHANUMERIC, ALPHANUMERIC, string.ascii_uppercase])
        yield "".join(rng.choices(alphabet, k=rng.randint(1, 12)))


def figures(rng: Random, held_out: bool) -> Iterator[str]:
    """Numbers, money, dates, times, codes, percentages."""
    while True:
        yield rng.choice(FIGURES)(rng)


def _money(rng: Random) -> str:
    sign = rng.choice(["$", "$", "", "", "-", "-$", "EUR", "USD"])
    return f"{sign}{rng.randint(0, 10 ** rng.randint(1, 6)):,}.{rng.randint(0, 99):02d}"


def _date(rng: Random) -> str:
    year, month, day = rng.randint(1950, 2039), rng.randint(1, 12), rng.randint(1, 28)
    return rng.choice(
        [
            f"{year}-{month:02d}-{day:02d}",
            f"{day:02d}/{month:02d}/{year}",
            f"{day}.{month}.{year}",
            f"{day}-{MONTHS[month - 1]}-{year}",
        ]
    )


def _code(rng: Random) -> str:
    letters = "".join(rng.choices(string.ascii_uppercase, k=rng.randint(1, 3)))
    return f"{letters}{rng.choice('-/#')}{rng.randint(1, 99999):0{rng.randint(1, 6)}d}"


FIGURES: list[Callable[[Random], str]] = [
    _money,
    _money,
    _date,
    _code,
    lambda rng: str(rng.randint(0, 10 ** rng.randint(1, 9))),
    lambda rng: str(rng.randint(0, 10 ** rng.randint(1, 5))),
    lambda rng: f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
    lambda rng: f"{rng.uniform(0, 100):.{rng.randint(0, 2)}f}%",
    lambda rng: f"{rng.uniform(-99, 999):.{rng.randint(1, 4)}f}",
]


def invoice(rng: Random, held_out: bool) -> Iterator[str]:
    """Label, amount, unit price and total, as on the lines of a bill."""
    words = english_words(held_out)
    for number in count(1):
        amount, cents = rng.randint(1, 99), rng.randint(50, 99999)
        if rng.random() < 0.3:
            yield from (rng.choice(ITEMS) + rng.choice(["", ":"]), rng.choice(FIGURES)(rng))
            continue
        yield from (f"{number}.", rng.choice(words).capitalize(), rng.choice(words))
        yield from (str(amount), "x", f"{cents / 100:.2f}", f"{amount * cents / 100:,.2f}")


Source = Callable[[Random, bool], Iterator[str]]
SOURCES: dict[str, tuple[Source, float]] = {
    "prose": (prose, 0.40),
    "shuffled": (shuffled, 0.18),
    "random": (random_strings, 0.17),
    "figures": (figures, 0.13),
    "invoice": (invoice, 0.12),
}


def word_stream(rng: Random, held_out: bool) -> Iterator[str]:
    """Endless words for one page: one source, or for a third of the pages all of them in turn."""
    names = list(SOURCES)
    weights = [SOURCES[name][1] for name in names]
    streams = {name: SOURCES[name][0](rng, held_out) for name in names}
    mixed = rng.random() < 0.35
    name = rng.choices(names, weights)[0]
    while True:
        for _ in range(rng.randint(2, 8)):
            yield next(streams[name])
        name = rng.choices(names, weights)[0] if mixed else name


LAYOUT_WEIGHTS = {"prose": 0.62, "shuffled": 0.12, "figures": 0.14, "invoice": 0.12}


def layout_words(rng: Random, held_out: bool) -> Iterator[str]:
    """Endless words of one source for one page with layout; none that Markdown could mistake."""
    (name,) = rng.choices(list(LAYOUT_WEIGHTS), list(LAYOUT_WEIGHTS.values()))
    return SOURCES[name][0](rng, held_out)
