"""LaTeX formulas of a page -> forms that two spellings of one formula share.

Spelling only: what a formula looks like when it is drawn is not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
