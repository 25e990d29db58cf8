"""LaTeX formulas of a page -> forms that two spellings of one formula share.

Spelling only: nothing is drawn here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from latex2mathml.converter import convert
from lxml import etree

# \( \), \[ \], $$ $$, $ $, in the order in which they are taken out of a text.
_DELIMITED = [
    re.compile(pattern, re.DOTALL)
    for pattern in (r"\\\((.+?)\\\)", r"\\\[(.+?)\\\]", r"\$\$(.+?)\$\$", r"\$(.+?)\$")
]
_FONTS = re.compile(
    r"\\(?:math(?:bf|rm|normal|it|bb|cal|scr|frak|sf|tt|bfcal)|text(?:bf|it|rm)?|bm|boldsymbol"
    r"|boldmath|operatorname\*?|mbox|displaystyle|textstyle|scriptstyle|scriptscriptstyle"
    r"|limits|nolimits|notag|nonumber|left|right|[bB]ig+[lrm]?)(?![a-zA-Z])"
)
_SPACES = re.compile(
    r"\\(?:[ ,;:!>]|(?:q?quad|enspace|(?:thick|thin|med|nobreak|negthin|negmed)?space)(?![a-zA-Z]))"
    r"|\\hspace\*?\{[^{}]*\}|\\(?:tag|label)\*?\{[^{}]*\}|~|\s+"
)
_SAME = (
    (r"\\(?:leq|leqslant)(?![a-zA-Z])", r"\\le"),
    (r"\\(?:geq|geqslant)(?![a-zA-Z])", r"\\ge"),
    (r"\\neq(?![a-zA-Z])", r"\\ne"),
    (r"\\(?:rightarrow|longrightarrow)(?![a-zA-Z])", r"\\to"),
    (r"\\[dt]frac(?![a-zA-Z])", r"\\frac"),
    (r"\\(?:dots|cdots|ldots|dotsc|dotsb)(?![a-zA-Z])", r"..."),
    (r"\\(?:lvert|rvert|vert|mid)(?![a-zA-Z])", "|"),
    (r"\^\{?\\prime\}?", "'"),
    (r"\\(?:begin|end)\{(?:equation|align|aligned|gather|gathered|split)\*?\}|&", ""),
)


def formulas(text: str) -> Iterator[str]:
    """Without their delimiters."""
    for pattern in _DELIMITED:
        yield from (match.strip() for match in pattern.findall(text))
        text = pattern.sub("", text)


def plain_formula(latex: str) -> str:
    """Without fonts, spaces, sizes, numbers and braces around one character."""
    latex = _SPACES.sub(" ", _FONTS.sub(" ", latex))
    for pattern, same in _SAME:
        latex = re.sub(pattern, same, latex)
    latex = re.sub(r"(\\[a-zA-Z]+) +(?=[a-zA-Z])", r"\1\0", latex).replace(" ", "")
    while (shorter := re.sub(r"\{(\\[a-zA-Z]+|[^{}\\])\}", r"\1", latex)) != latex:
        latex = shorter
    return latex.replace("\0", " ").strip(".,;")


_DROPPED = re.compile(
    r"\\(?:tag|hspace|begin|end)\{[^{}]*\}|\\arraycolsep[^}]*\}"
    r"|\\(?:math(?:bf|rm|normal|it|bb|cal|scr|frak|sf|tt|bfcal)|text(?:bf)?|boldmath|boldsymbol"
    r"|operatorname|bm|symbf(?:it)?|scriptscriptstyle|notag|setlength|coloneqq|substackw"
    r"|(?:thick|thin|med|nobreak|negmed)?space|q?quad|enspace|left|right|displaystyle)|\s"
)
_INLINE = re.compile(r"\$(.*?)\$|\\\((.*?)\\\)")


def formula_key(latex: str) -> str:
    """Without delimiters, fonts, spaces and sizes, in small letters."""
    latex = latex.strip().strip("$").strip()
    inner = re.search(r"\\\[(.+?)(?<!\\)\\\]", latex, re.DOTALL)
    latex = inner[1].strip() if inner else latex
    return _DROPPED.sub("", latex.strip(".")).replace("$$", "").lower()


def text_key(text: str) -> str:
    """Letters and digits only; formulas within the text as the characters they show."""
    shown = _INLINE.sub(lambda match: shown_formula(match[1] or match[2] or ""), text)
    return re.sub(r"\W", "", re.sub(r"[\\/][tn](?![a-zA-Z])", "", shown))


def shown_formula(latex: str) -> str:
    """The characters that a formula shows, in order; as it is where it cannot be read."""
    if not re.search(r"[\\^_]", latex):
        return latex
    try:
        shown = convert(latex)
    except Exception:  # what it raises has no common ancestor below this one
        return latex
    return re.sub(r"\\[a-zA-Z]+", "", "".join(etree.fromstring(shown.encode()).itertext()))
