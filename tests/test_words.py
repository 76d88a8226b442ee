"""LEAP's names are the field's: whoever knows it, and not LEAP, finds them by the words that he looks for."""

import ast
import re
from collections.abc import Iterator

import pytest
from conftest import REPOSITORY

# Word -> what the field says. Singular; plurals are found too.
INSTEAD = {
    "picture": "image",
    "told": "message, summary",
    "wish": "request",
    "manners": "retry policy",
    "deviation": "std",
    "held out": "validation",
    "expert": "reference",
    "trash": "quarantine",
    "shots": "few-shot examples",
    "pack": "micro-batch, packed batch",
    "patience": "retry policy",
}
EARLY_STOPPING = {"early_stopping_patience", "patience", "_patience"}  # the Trainer's name, and what holds its value

FILES = sorted(
    path
    for folder in ("leap", "configs", "scripts", "benchmarks", "tests")
    for path in (REPOSITORY / folder).rglob("*.py")
    if not path.is_relative_to(REPOSITORY / "tests" / "data")
)


def identifiers(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """The names that a file defines, with their lines, and the flags that stand in it. What it calls is not its own."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno
            case ast.arg(arg=name) | ast.keyword(arg=str(name), value=ast.Constant()):
                yield name, node.lineno
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.alias(asname=str(name)) | ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case ast.Constant(value=str(text)) if re.fullmatch(r"--[a-z][a-z0-9_]+", text):
                yield text.removeprefix("--"), node.lineno


def words(identifier: str) -> str:
    """few_shot_example, FewShotExample: few shot example."""
    return " ".join(word.lower() for word in re.findall(r"[a-z0-9]+|[A-Z]+(?![a-z])|[A-Z][a-z0-9]*", identifier))


def banned(identifier: str) -> list[str]:
    """Which of the words stand in it."""
    return [word for word in INSTEAD if re.search(rf"\b{word}(s|es)?\b", words(identifier))]


@pytest.mark.parametrize(
    ("identifier", "found"),
    [
        ("draw_pictures", ["picture"]),
        ("RetryManners", ["manners"]),
        ("HELD_OUT", ["held out"]),
        ("WishList", ["wish"]),
        ("few_shot_examples", []),
        ("unpack_images", []),
        ("PackedBatch", []),
        ("is_told", ["told"]),
    ],
)
def test_words_are_found_in_any_spelling(identifier: str, found: list[str]) -> None:
    assert banned(identifier) == found


def test_identifiers_flags_and_file_names_are_in_the_fields_words() -> None:
    assert len(FILES) > 300
    wrong = []
    for path in FILES:
        place = path.relative_to(REPOSITORY)
        for name, line in [(path.stem, 0), *identifiers(ast.parse(path.read_text(encoding="utf-8")))]:
            if name not in EARLY_STOPPING:
                wrong += [f"{place}:{line}: {name}: say {INSTEAD[word]}" for word in banned(name)]
    assert not wrong, "\n".join(wrong)
