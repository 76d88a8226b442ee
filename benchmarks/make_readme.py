"""Write benchmarks/README.md: the committed results as a table.

python benchmarks/make_readme.py
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import installed  # noqa: F401
from peer_settings import installation
from step_profile import as_markdown

from configs.config import REPOSITORY
from leap.cli import run
from leap.records.files import write_atomic
from leap.records.json_files import read_object
from leap.records.litter import listed

HEADER = """# Benchmarks

Speed, measured. Every row is a file in [results/](results) that names machine, versions, commit and all timed windows.
This page is written by `python benchmarks/make_readme.py`. Benchmarks need LEAP installed: `pip install -e .`
"The first implementation" is the first version of LEAP (the published checkpoints are its): the library's Trainer on
padded batches, rebuilt from its README in `seed_training.py`, and `generate` one by one.
A command is that of the commit beside it: flags and files of older ones may have other names by now.
`tabletop_base` is the first of the two trainings of models/leap-tabletop, whose card has what both came to.

| benchmark | device | figure | beside it | commit | command |
| --- | --- | ---: | --- | --- | --- |
"""

TRAINING = """
## Training

MFU is the model FLOPs utilisation: operations counted from the configuration, vision tower included and recomputation
not (leap/training/flops.py), over the GPU's dense bfloat16 peak. Waiting for data is the share of the time in which a
step's start waits for the data loader.

| setting | device | samples/s | tokens/s | MFU | GB | waiting for data | the first implementation | first step's loss |
| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |
"""

PEERS = f"""
## Other trainers

`peers.py` trains with LEAP and with other projects on the same samples, one after the other on one GPU: "bf16" with
weights of bfloat16 on both sides, "fp32" of float32, "lora" with adapters; all compute in bfloat16. Positions are those
of a step, padding included. The versions and every setting are in [peer_settings.py](peer_settings.py); their
environments are made by

```bash
{installation()}
```
"""

PEERS_TABLE = """
| setting | device | system | attention | micro-batch | samples/s | LEAP is | MFU | positions | GB | waiting for data |
| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def table(results: Path) -> str:
    """The page for the result files in a folder."""
    rows, training = [], []
    for path in listed(results, "*.json"):
        found = read_object(path)
        cells = [
            f"[{found['benchmark']}](results/{path.name})",
            found["device"],
            f"{_figure(found['ours'])} {found['unit']}",
            "; ".join(_beside(found)),
        ]
        if found["benchmark"].startswith("training_throughput"):
            training.append(_training(found, path))
        rows.append([*cells, found["commit"][:7], f"`{found['command']}`"])
    page = HEADER + _lines(rows)
    page += TRAINING + _lines(training) + _profiles(results) if training else ""
    peers = [row for path in listed(results, "training_peers_*.json") for row in _peers(read_object(path), path)]
    return page + PEERS + (PEERS_TABLE + _lines(peers) if peers else "")


def _lines(rows: Iterable[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _training(found: dict[str, Any], path: Path) -> list[str]:
    seed, parity = "not measured", found.get("parity") or {}
    if found.get("seed_setting"):
        share = f", MFU {found['seed_mfu']:.1%}" if found.get("seed_mfu") else ""
        seed = (
            f"{_figure(found['seed_setting'])} samples/s{share}, {found['seed_peak_gb'] or '-'} GB; x {found['ratio']}"
        )
    return [
        f"[{found['benchmark'].removeprefix('training_throughput_')}](results/{path.name})",
        found["device"],
        _figure(found["ours"]),
        _figure(found["tokens_per_second"]),
        f"{found['mfu']:.1%}" if found.get("mfu") else "-",
        str(found["peak_gb"] or "-"),
        f"{found['data_wait_share']:.1%}",
        seed,
        f"differs by {parity['first_step_loss_difference']:.1e}" if parity else "-",
    ]


def _peers(found: dict[str, Any], path: Path) -> Iterator[list[str]]:
    """The fastest system first, and at the end those that failed, with the reason, or were not tried."""
    place = [f"[{found['benchmark'].removeprefix('training_peers_')}](results/{path.name})", found["device"]]
    systems = found["systems"].items()
    for name, system in sorted(systems, key=lambda item: -item[1].get("samples_per_second", 0.0)):
        rows = str(system.get("micro_batch", "-"))
        if "error" in system:
            yield [*place, name, "-", rows, f"failed: {system['error'].replace('|', '/')}", *["-"] * 5]
            continue
        rate = system["samples_per_second"]
        yield [
            *place,
            name,
            system["attention"],
            rows,
            _figure(rate),
            f"{found['ours'] / rate:.2f} times as fast" if name != "LEAP" else "-",
            f"{system['mfu']:.1%}" if system.get("mfu") else "-",
            _figure(system["positions_a_step"]),
            str(system["peak_gb"] or "-"),
            f"{system['data_wait_share']:.1%}",
        ]
    for name in found["not_tried"]:
        yield [*place, name, "-", "-", "not tried", *["-"] * 5]


def _profiles(results: Path) -> str:
    """Where a step's time goes, of each result with a profile."""
    page = ""
    for path in listed(results, "training_throughput_*.json"):
        found = read_object(path)
        if profile := found.get("profile"):
            page += f"\nA step of [{found['benchmark']}](results/{path.name}) on {found['device']}:\n\n"
            page += as_markdown(profile) + "\n"
    return page


def _beside(found: dict[str, Any]) -> list[str]:
    """What the figure is to be compared with."""
    beside = [f"{name} {_figure(figure)}" for name, figure in found.get("parts", {}).items()]
    if found.get("seed_setting"):
        other = found.get("compared_with", "the first implementation's setting")
        beside.append(f"{found['ratio']} times {other} ({_figure(found['seed_setting'])})")
    for key, name in (("vllm_chat", "vLLM's LLM.chat"), ("lmms_eval", "lmms-eval")):
        other = found.get(key, {})
        if rate := other.get("rate"):  # a result of parity has none
            ours = other.get("ours_over_as_many", found["ours"])
            beside.append(f"{ours / rate:.2f} times {name} ({_figure(rate)}) over as many")
    if found.get("with_start_up"):
        beside.append(f"{_figure(found['with_start_up'])} with start-up")
    if found.get("scaling"):
        beside.append(f"{found['scaling']:.2f} times one of these GPUs ({_figure(found['one_gpu']['ours'])})")
    if found.get("mfu"):
        beside.append(f"{found['mfu']:.1%} MFU")
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
