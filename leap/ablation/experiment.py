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
from leap.records.files import cache_in_use
from leap.tabletop.demo_workspace import DemoSize, is_complete, make_workspace
from leap.training import fine_tune
from leap.training.recipe import read_recipe


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


def prepare_demo(workspace: Any, own_base: bool, dry_run: bool) -> dict[str, Any] | None:
    """Make what is missing in `workspace` (a WorkspaceConfig), the base too unless the user brings his own.

    With `dry_run` nothing is made. The recipe values that the plan needs then: in the place of a base that is to be
    trained the model that it is trained from, which has its shape; None where there is no data to plan with.
    """
    recipe = read_recipe(workspace.recipe("demo-base"))
    steps = f"{recipe.max_steps} steps of {recipe.model_name_or_path}"
    if not is_complete(workspace.root):
        if dry_run:
            print(f"workspace   {workspace.root}: to be made, and a base model: {'' if own_base else steps}")
            return None
        make_workspace(workspace.root, DemoSize())
    if own_base:
        return {}
    with cache_in_use(workspace.cache, keep=not dry_run) as cache:
        base = fine_tune.check_run(recipe, workspace.root, cache, report=not dry_run)
    if base.finished:
        return {}
    if dry_run:
        print(f"base        {base.output}: to be trained, {steps}, for which that model stands in this plan")
        return {"model_name_or_path": recipe.model_name_or_path}
    fine_tune.train(base, workspace.repository, workspace.logs)
    return {}
