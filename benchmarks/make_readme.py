"""Write benchmarks/README.md: the committed results as a table.

python benchmarks/make_readme.py
"""

from pathlib import Path
from typing import Any

from configs.config import REPOSITORY
from leap.cli import run
from leap.records.files import read_object, write_atomic

HEADER = """# Benchmarks

Speed, measured. Every row is a file in [results/](results) that names machine, versions, commit and all timed windows.
This page is written by `python benchmarks/make_readme.py`.

| benchmark | device | figure | beside it | commit | command |
| --- | --- | ---: | --- | --- | --- |
"""


def table(results: Path) -> str:
    """The page for the result files in a folder."""
    rows = []
    for path in sorted(results.glob("*.json")):
        found = read_object(path)
        cells = [
            f"[{found['benchmark']}](results/{path.name})",
            found["device"],
            f"{_figure(found['ours'])} {found['unit']}",
            "; ".join(_beside(found)),
        ]
        rows.append([*cells, found["commit"][:7], f"`{found['command']}`"])
    return HEADER + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _beside(found: dict[str, Any]) -> list[str]:
    """What the figure is to be compared with."""
    beside = [f"{name} {_figure(figure)}" for name, figure in found.get("parts", {}).items()]
    if "seed_setting" in found:
        beside.append(f"{found['ratio']} times the seed's setting ({_figure(found['seed_setting'])})")
    if found.get("limit"):
        beside.append(f"{found['share_of_limit']:.0%} of the limit ({_figure(found['limit'])})")
    if found.get("peak_gb"):
        beside.append(f"{found['peak_gb']} GB")
    if "plain_total_score" in found.get("parity", {}):
        parity = found["parity"]
        beside.append(
            f"{parity['identical']} of {parity['examples']}; mean score {parity['plain_total_score']:.2f}, "
            f"difference {parity['mean_score_difference']:+.3f}"
        )
    return beside


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def main() -> None:
    folder = REPOSITORY / "benchmarks"
    write_atomic(folder / "README.md", table(folder / "results"))
    print(folder / "README.md")


if __name__ == "__main__":
    run(main)
