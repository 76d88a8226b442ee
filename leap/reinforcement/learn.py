"""What `run-grpo.py` calls: the prompts, then the method."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from leap.records.files import cache_in_use
from leap.reinforcement.own_reward import read_own_reward
from leap.reinforcement.policy_prompts import Places, prompt_file
from leap.reinforcement.policy_recipe import PolicyRecipe
from leap.training.places import check_places
from leap.training.recipe import Recipe

if TYPE_CHECKING:
    from leap.training.loop import Benchmark


def learn(
    recipe: PolicyRecipe,
    places: Places,
    dry_run: bool,
    callbacks: Sequence[Any] = (),
    benchmark: "Callable[[Recipe], Benchmark] | None" = None,
) -> None:
    """Learn from rewards by the recipe's method; with `dry_run` only check and say what would be done."""
    own = read_own_reward(recipe.reward_file, places.root) if recipe.reward_file else None
    if own:
        recipe = recipe.with_own_reward(own.fingerprint)
    with cache_in_use(places.cache, keep=not dry_run) as cache:
        file = prompt_file(recipe, places, cache, dry_run)
        if file is None:
            print("prompts     fresh scenes, which are rendered first; the rest is checked when they are there")
            return
        recipe = recipe.model_copy(update={"train_file": file})
        check_places(recipe, places.root)
        if recipe.method == "grpo":
            from leap.reinforcement.grpo_run import learn_grpo as learn_by
        else:
            from leap.reinforcement.rejection import learn_rft as learn_by
        learn_by(recipe, own, places, cache, dry_run, callbacks, benchmark)
