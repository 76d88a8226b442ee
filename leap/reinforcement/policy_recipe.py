"""The recipe of a run that learns from rewards: a training recipe, and how its responses are sampled and rewarded."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from leap.training.recipe import Count, Finite, NotNegative, Recipe, Share
from leap.vlabench.rewards import TERMS, why_no_term

TABLETOP = "tabletop"
_ORDER = 2  # of `policy_prompts.order_of`: to be raised when it is another, since a run would go on with other prompts
_FREE = ("train_file", "vllm_gpu_memory_utilization", "vllm_enable_sleep_mode")  # which decide nothing that is learned
# Keys of LEAP's own training loop that TRL's has no use for, and what there is instead.
_NOT_IN_GRPO = {
    "val_file": "eval_benchmark answers examples that are not trained on",
    "early_stopping_patience": "eval_benchmark with metric_for_best_model keeps the best checkpoint",
    "quantization": "adapters beside bf16 weights (finetuning: lora) take little more",
    "fsdp": "every rank holds the whole model",
    "deepspeed": "every rank holds the whole model",
    "fp16": "take bf16",
    "tokens_per_micro_batch": "per_device_train_batch_size says how many responses go through the model at once",
    "compile": "leave it out",
    "upload": "copy the checkpoints with the store's own tool",
}


def _weights(values: dict[str, float]) -> dict[str, float]:
    """Of terms that exist, one of them at least; a user's own reward is called `own`."""
    for name in values:
        if name != "own" and (problem := why_no_term(name)):
            raise ValueError(problem)
    if not any(values.values()):
        raise ValueError("no reward has a weight")
    return values


class PolicyRecipe(Recipe):
    """What a run with rewards does. Names are GRPOConfig's where it has one."""

    method: Annotated[
        Literal["grpo", "rft"], Field(description="GRPO, or rejection sampling and fine-tuning on what it kept")
    ] = "grpo"
    train_file: Annotated[
        str, Field(description=f"prompts: samples with a plan, a benchmark's folder, or {TABLETOP} (fresh scenes)")
    ]
    num_prompts: Annotated[
        Count | None, Field(description=f"of {TABLETOP}, how many scenes; null: as many as the run has room for")
    ] = None

    num_generations: Annotated[int, Field(ge=2, le=1024, description="responses to each prompt")] = 8
    max_completion_length: Annotated[Count, Field(description="tokens of a response")] = 256
    temperature: Annotated[Finite, Field(gt=0, le=5)] = 1.0
    top_p: Annotated[Finite, Field(gt=0, le=1)] = 1.0
    use_vllm: Annotated[bool, Field(description="responses are sampled by vLLM, in the same process")] = False
    vllm_gpu_memory_utilization: Annotated[
        Finite, Field(gt=0, lt=1, description="of a GPU's memory, the share that vLLM takes")
    ] = 0.3
    vllm_enable_sleep_mode: Annotated[
        bool, Field(description="vLLM gives its memory back while is learned, and takes the weights anew each time")
    ] = False

    reward_weights: Annotated[
        dict[str, Finite], AfterValidator(_weights), Field(description=f"of {', '.join(TERMS)}, and own")
    ] = Field(default={"grounded": 1.0, "form": 0.2, "exact": 0.2})
    reward_file: Annotated[
        str | None, Field(description="a reward of your own, FILE.py:FUNCTION; its weight is that of `own`, or 1")
    ] = None
    image_share: Annotated[
        Share, Field(description="of the prompts, which are asked with another scene's images too, for the image term")
    ] = 0.0

    # Rejection sampling's own.
    replay_file: Annotated[
        str | None, Field(description="supervised samples, learned as often as what was kept, against forgetting")
    ] = None

    # GRPO's own.
    steps_per_generation: Annotated[
        Count | None, Field(description="micro-batches that are sampled at once; null: gradient_accumulation_steps")
    ] = None
    num_iterations: Annotated[Count, Field(description="times that the same responses are learned from")] = 1
    beta: Annotated[NotNegative, Field(description="of the divergence from the model that the run started from")] = 0.0
    epsilon: NotNegative = 0.2
    epsilon_high: NotNegative | None = None
    loss_type: Literal["grpo", "dapo", "dr_grpo", "bnpo"] = "dapo"
    scale_rewards: Annotated[
        Literal["group", "batch", "none"],
        BeforeValidator(lambda value: {True: "group", False: "none"}.get(value, value)),
    ] = "group"
    mask_truncated_completions: bool = False

    _own: str | None = PrivateAttr(None)  # sha256 of the user's own reward, which decides what is learned

    @property
    def any_ranks(self) -> bool:
        """TRL divides a sampling among the ranks that there are."""
        return False

    @model_validator(mode="after")
    def rewarded(self) -> "PolicyRecipe":
        if bool(self.reward_weights.get("own")) and not self.reward_file:
            raise ValueError("reward_weights: own needs a reward_file")
        if bool(self.weights.get("image")) != bool(self.image_share):
            raise ValueError("reward_weights: image and image_share need each other")
        return self

    @model_validator(mode="after")
    def fits_its_method(self) -> "PolicyRecipe":
        if self.method != "rft" and self.replay_file:
            raise ValueError("replay_file: GRPO learns from responses alone; --method rft has it")
        if self.method == "rft":
            if self.image_share:
                raise ValueError("image_share: samples to learn from are kept of a scene's own images; GRPO has it")
            if self.use_vllm:
                raise ValueError("use_vllm: rejection sampling samples with the hf engine; GRPO has it")
            return self
        for key, instead in _NOT_IN_GRPO.items():
            if getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key}: GRPO does not take it; {instead}")
        if self.beta and self.resume_from_lora:
            raise ValueError(
                "beta: TRL would measure the divergence from the base without the adapter of resume_from_lora; start "
                "from the merged model (scripts/training/export_model.py), or leave out beta"
            )
        if self.eval_strategy == "epoch":
            raise ValueError("eval_strategy=epoch: GRPO counts steps; give eval_steps")
        if self.max_steps is None:
            raise ValueError("max_steps: GRPO needs a number of steps; its prompts are taken as often as that asks for")
        sampled = self.per_device_train_batch_size * self.micro_batches_sampled
        together, accumulated = self.micro_batches_sampled, self.gradient_accumulation_steps
        if together % accumulated and (accumulated % together or self.num_iterations > 1):
            raise ValueError(
                "steps_per_generation: a multiple of gradient_accumulation_steps is needed, or, with num_iterations 1, "
                "a divisor of it"
            )
        if self.save_steps % self.steps_of_a_sampling or self.max_steps % self.steps_of_a_sampling:
            raise ValueError(
                f"save_steps={self.save_steps}, max_steps={self.max_steps}: responses are sampled every "
                f"{self.steps_of_a_sampling} steps, and a run can go on from there only; give multiples of it"
            )
        if sampled % self.num_generations:
            raise ValueError(
                f"per_device_train_batch_size x steps_per_generation = {sampled} responses are sampled at once, which "
                f"is no multiple of num_generations={self.num_generations}"
            )
        return self

    def with_own_reward(self, fingerprint: str) -> "PolicyRecipe":
        """The recipe with the content of its reward_file, as far as it is known."""
        found = self.model_copy()
        found._own = fingerprint
        return found

    def identity(self) -> dict[str, Any]:
        """The prompts are known by their content, wherever they lie."""
        values = {name: value for name, value in super().identity().items() if name not in _FREE}
        order = {"order_of_prompts": _ORDER} if self.method == "grpo" else {}
        return values | order | ({"own_reward": self._own} if self._own else {})

    @property
    def weights(self) -> dict[str, float]:
        """Of all terms that count, a user's own reward among them."""
        own = {"own": 1.0} if self.reward_file else {}
        return {name: weight for name, weight in (own | self.reward_weights).items() if weight}

    @property
    def micro_batches_sampled(self) -> int:
        """How many micro-batches are sampled at once."""
        return self.steps_per_generation or self.gradient_accumulation_steps

    @property
    def steps_of_a_sampling(self) -> int:
        """Optimiser steps that learn from responses that were sampled at once."""
        return max(1, self.micro_batches_sampled * self.num_iterations // self.gradient_accumulation_steps)

    def prompts_needed(self, world_size: int) -> int:
        """Prompts of a whole run: each is asked once where there are so many."""
        if self.method == "rft" or self.max_steps is None:
            return self.num_prompts or 960
        micro_batches = self.max_steps * self.gradient_accumulation_steps // self.num_iterations
        return self.prompts_sampled(world_size) * (micro_batches // self.micro_batches_sampled)

    def prompts_sampled(self, world_size: int) -> int:
        """Prompts whose responses are sampled at once, by all ranks."""
        return self.per_device_train_batch_size * self.micro_batches_sampled * world_size // self.num_generations

    def plain(self, **changes: Any) -> Recipe:
        """The same as LEAP's own trainer has it, of what rejection sampling kept."""
        values = self.model_dump(include=set(Recipe.model_fields))
        return Recipe.model_validate(values | changes)
