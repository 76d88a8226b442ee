"""What the demo's ablation stands on: the demo workspace, and a base model that is fine-tuned a little."""

from typing import Any

from leap.records.files import cache_in_use
from leap.tabletop.demo_workspace import DemoSize, is_complete, make_workspace
from leap.training.fine_tune import check_run, train
from leap.training.recipe import read_recipe


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
        base = check_run(recipe, workspace.root, cache, report=not dry_run)
    if base.finished:
        return {}
    if dry_run:
        print(f"base        {base.output}: to be trained, {steps}, for which that model stands in this plan")
        return {"model_name_or_path": recipe.model_name_or_path}
    train(base, workspace.repository, workspace.logs)
    return {}
