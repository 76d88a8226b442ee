"""An ablation as one experiment: plan, train, evaluate, report. It goes on from wherever it was stopped."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap.ablation.ablation_plan import PlannedRun, describe
from leap.ablation.ablation_report import write_report
from leap.ablation.effect_tables import collect
from leap.ablation.runs import Scripts
from leap.ablation.stages import Machine, Places, evaluate, train
from leap.inference.engines import DEFAULT
from leap.tabletop.demo_workspace import DemoSize, is_complete, make_workspace


@dataclass(frozen=True)
class Experiment:
    """The runs, where their files lie, and how they are evaluated."""

    planned: list[PlannedRun]
    data: Path  # the benchmark
    places: Places
    folder: Path  # of the report
    scripts: Scripts
    options: Sequence[str]  # of each evaluation
    machine: Machine

    def describe(self) -> str:
        engine = self.options[self.options.index("--engine") + 1] if "--engine" in self.options else DEFAULT
        return describe(self.planned, self.data, engine, self.machine.slots)

    def run(self) -> bool:
        """All stages. False where a run or an evaluation failed, which stops none of the others; the report says so."""
        trained = train(self.planned, self.machine)
        evaluated = evaluate(self.planned, self.places, self.scripts.evaluate, self.options, self.machine)
        return self.report() and trained and evaluated

    def report(self) -> bool:
        """Write the report of what is there; False where something is missing."""
        findings = collect(self.planned, self.places)
        print("\n== report")
        for path in write_report(findings, self.planned, self.folder):
            print(path)
        for line in (*(f"CAREFUL {note}" for note in findings.notes), *(f"MISSING {one}" for one in findings.missing)):
            print(line)
        return not findings.missing


def prepare_demo(workspace: Any, dry_run: bool) -> bool:
    """Make what is missing in `workspace` (a WorkspaceConfig); False where `dry_run` leaves no data to plan with."""
    if is_complete(workspace.root):
        return True
    if dry_run:
        print(f"workspace   {workspace.root}: to be made")
        return False
    make_workspace(workspace.root, DemoSize())
    return True
