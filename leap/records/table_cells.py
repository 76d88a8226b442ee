"""Tables for other programs, whose cells others may have written: CSV without formulas, Markdown without markup."""

import csv
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leap.terminal import in_one_line, shown

if TYPE_CHECKING:
    import pandas as pd

# What a spreadsheet runs as a formula by its first character (the list of OWASP, "CSV Injection"), and what would be
# taken for a cell that we had marked.
_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d[\d,]*\.?\d*|\.\d+)(e[+-]?\d+)? ?%?", re.IGNORECASE)
_MARKDOWN = re.compile(r"[\\`<|]|[*~](?=\S)|(?<![^\W_])_|_(?![^\W_])|\](?=[(\[])")


def csv_text(table: "pd.DataFrame", index: bool = False) -> str:
    """A table as CSV. A text that a spreadsheet would run has a ' before it, which `without_marks` takes away."""
    safe = _map_texts(table, _marked)
    if index:
        safe.index = safe.index.map(_marked)
    text: str = safe.to_csv(index=index, lineterminator="\n")
    if "\r" in text:  # readers end a line at a bare one, and only this makes the csv module quote it
        text = safe.to_csv(index=index, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return text


def without_marks(table: "pd.DataFrame") -> "pd.DataFrame":
    """A table that was read from CSV, with the texts that `csv_text` was given."""
    return _map_texts(table, lambda text: text[1:] if text.startswith("'") and _marked(text[1:]) == text else text)


def _map_texts(table: "pd.DataFrame", change: Callable[[Any], Any]) -> "pd.DataFrame":
    from pandas.api.types import is_numeric_dtype

    changed = table.copy()
    for name in table.columns:
        if not is_numeric_dtype(table[name]):
            changed[name] = table[name].map(lambda cell: change(cell) if isinstance(cell, str) else cell)
    return changed


def _marked(cell: Any) -> Any:
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it stands, in a table too: no markup, HTML, link or line end."""
    return _MARKDOWN.sub(r"\\\g<0>", in_one_line(text))


def markdown_block(text: str, language: str) -> str:
    """Lines of code that Markdown shows as they stand, whatever fences are in them."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{shown(text)}{fence}"


def markdown_lines(header: Sequence[str], right: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; `right` says which columns are aligned there."""
    ruler = ["---:" if to_right else "---" for to_right in right]
    cells = [[markdown_text(cell) for cell in row] for row in (header, *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (cells[0], ruler, *cells[1:]))
