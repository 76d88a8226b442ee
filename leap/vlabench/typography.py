"""JSON as models trained on Chinese write it: typographic quotes, full-width colons, commas, brackets and digits."""

import re
import unicodedata
from collections.abc import Iterator
from typing import Any

# A string may be closed by any sign of its family: models mix them.
_FAMILIES = ('"“”„‟〝〞＂', "‘’‚‛＇", "「」『』")
_QUOTES = "".join(_FAMILIES)
_SEPARATORS = str.maketrans("、【】", ",[]")  # not full-width forms, so that Unicode's own folding leaves them
_DIGITS = str.maketrans("０１２３４５６７８９＋－．", "0123456789+-.")
_NUMBER = re.compile(r"\s*[+＋－-]?[0-9０-９]+(?:[.．][0-9０-９]*)?\s*")

_SIGNS = re.compile(rf"[{_QUOTES[1:]}、【】\u3000\uff01-\uff5e]")
PLAN_START = re.compile(rf"[\[［【]\s*[{{｛]|[{{｛]\s*[{_QUOTES}]skill_sequence")
_PIECE = re.compile(rf"//[^\n]*|#[^\n]*|/\*.*?(?:\*/|\Z)|[{_QUOTES}]|[^/#{_QUOTES}]+|.", re.DOTALL)
_JSON_STRING = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)', re.DOTALL)
_CLOSING = {
    sign: re.compile(rf"\\.|([{family}])(?=\s*(?:[:：,，、\]］】}}｝]|\Z))", re.DOTALL)
    for family in _FAMILIES
    for sign in family
}


def fold_number(value: Any) -> Any:
    """A text that is a number in full-width digits, in ASCII; anything else as it is."""
    return value.translate(_DIGITS) if isinstance(value, str) and _NUMBER.fullmatch(value) else value


def fold_json(text: str, mixed: bool = False) -> str:
    """Typographic signs around JSON's values as JSON's own. What stands within a string stays, comments too.

    A string that an ASCII quote opens ends at the next one, as in JSON; with `mixed` at any quote that a colon, a
    comma or a bracket follows, which is where all other strings end.
    """
    return "".join(_folded(text, mixed))


def foldings(text: str) -> list[str]:
    """The readings of a text that has such signs, the stricter first."""
    return [fold_json(text), fold_json(text, mixed=True)] if _SIGNS.search(text) else []


def _folded(text: str, mixed: bool) -> Iterator[str]:
    position = 0
    while piece := _PIECE.match(text, position):
        position = piece.end()
        if piece[0] == '"' and not mixed:
            string = _JSON_STRING.match(text, piece.start())
            assert string
            position = string.end()
            yield string[0]
        elif piece[0] in _CLOSING:
            closing = _closing(text, piece[0], position)
            content = text[position : closing or len(text)]
            position += len(content) + (closing is not None)
            yield f'"{_escaped(content)}' + '"' * (closing is not None)
        elif piece[0].startswith(("//", "#", "/*")):
            yield piece[0]
        else:
            yield unicodedata.normalize("NFKC", piece[0].translate(_SEPARATORS))


def _closing(text: str, opening: str, start: int) -> int | None:
    """Where the string ends that `opening` began; None where the text breaks off within it."""
    found = (match.start() for match in _CLOSING[opening].finditer(text, start) if match[1])
    return next(found, None)


def _escaped(content: str) -> str:
    r"""A string's content for JSON: bare quotes and line breaks escaped, what was escaped already left."""
    return re.sub(r'\\.|["\n\r\t]', lambda match: _ESCAPES.get(match[0], match[0]), content, flags=re.DOTALL)


_ESCAPES = {'"': r"\"", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
