r"""The answer of a completion: what its last ``\boxed{…}`` holds."""

from __future__ import annotations

import re

# A box, an escaped character (text, be it a brace or a backslash), or a brace. Models that learned from escaped
# text write \\boxed: any number of backslashes makes a box.
MARK = re.compile(r"(?P<box>\\+(?:boxed|fbox)\s*\{)|\\.|[{}]", re.DOTALL)


def last_boxed(text: str) -> str | None:
    r"""Return the content of the last closed ``\boxed{…}`` or ``\fbox{…}``, or None when there is none.

    Nested braces count, escaped ones (``\{``) are text, and white space may stand before the brace. A box that is
    never closed is no answer, and hides no box that was closed. Of nested boxes the outer one is the answer. One pass
    over the text, whatever it holds.

    >>> last_boxed(r"so \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    """
    answer = None
    opened: list[int] = []  # for each open brace: where its content starts if it is a box's, else -1
    for mark in MARK.finditer(text):
        if mark["box"]:
            opened.append(mark.end())
        elif mark.group() == "{":
            opened.append(-1)
        elif mark.group() == "}" and opened:
            start = opened.pop()
            if start >= 0:
                answer = text[start : mark.start()]
    return answer
