"""Write benchmarks/README.md: the committed results as a table.

python benchmarks/make_readme.py
"""

from pathlib import Path

from configs.config import REPOSITORY
from leap.cli import run
from leap.records.files import read_object, write_atomic

HEADER = """# Benchmarks

Speed, measured. Every row is a file in [results/](results) that names machine, versions, commit and all timed windows.
This page is written by `python benchmarks/make_readme.py`.

| benchmark | device | figure (median) | parts | commit | command |
| --- | --- | ---: | --- | --- | --- |
"""


def table(results: Path) -> str:
    """The page for the result files in a folder."""
    rows = []
    for path in sorted(results.glob("*.json")):
        found = read_object(path)
        parts = ", ".join(f"{name} {_figure(figure)}" for name, figure in found["parts"].items())
        cells = [
            f"[{found['benchmark']}](results/{path.name})",
            found["device"],
            f"{_figure(found['ours'])} {found['unit']}",
        ]
        rows.append([*cells, parts, found["commit"][:7], f"`{found['command']}`"])
    return HEADER + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def main() -> None:
    folder = REPOSITORY / "benchmarks"
    write_atomic(folder / "README.md", table(folder / "results"))
    print(folder / "README.md")


if __name__ == "__main__":
    run(main)
