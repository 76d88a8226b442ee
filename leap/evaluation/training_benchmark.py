"""The benchmark while training: a seeded subset of it, answered by the model as it is."""

import hashlib
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from leap.data.image import ImageSize
from leap.errors import LeapError
from leap.evaluation.predictions import as_prediction, example_and_repeat
from leap.evaluation.requests import build_requests
from leap.evaluation.score import score_predictions
from leap.evaluation.settings import EvaluationSettings
from leap.inference.protocol import Decoding, Response, request_hash
from leap.records.benchmark import BenchmarkExample
from leap.vlabench.blind import TOTAL
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import dimension_folders, find_examples, fingerprint
from leap.vlabench.grounding import GROUNDED
from leap.vlabench.sources import choose_instructions, choose_scorer

if TYPE_CHECKING:
    from leap.inference.hf import HfEngine
    from leap.training.loop import InTraining
    from leap.training.recipe import Recipe


class TrainingBenchmark:
    """`examples` of the benchmark, asked as an evaluation by the `hf` engine does. Every rank answers its share.

    A subset, drawn with the recipe's seed: the same in every run of that seed and number, as many of each dimension.
    """

    def __init__(self, data: Path, checkout: Path, max_new_tokens: int, recipe: "Recipe") -> None:
        """Raises LeapError where the benchmark is not in `data`, or has fewer examples than the recipe asks for.
        `checkout` is where VLABench's submodule is, if anywhere."""
        assert recipe.eval_benchmark
        self._settings = EvaluationSettings(
            data,
            choose_instructions("auto", checkout),
            ImageSize(recipe.image_tokens_min, recipe.image_tokens_max),
            Decoding(max_new_tokens),
            scorer=choose_scorer("auto", checkout),
        )
        pools = [find_examples(data, one) for one in DIMENSIONS if dimension_folders(data, one)]
        self.examples = draw_examples(pools, recipe.eval_benchmark, recipe.seed)
        self._requests = build_requests(self.examples, self.examples, self._settings)
        self._engine: HfEngine | None = None  # made once: it shares the weights

    @property
    def fingerprint(self) -> str:
        """Of the examples, and of how they are asked and scored. Scores of others are not compared with these."""
        digest = hashlib.sha256(fingerprint(self.examples).encode())
        digest.update(repr((self._settings.decoding, self._settings.scorer.name)).encode())
        for request in self._requests:
            digest.update(request_hash(request).encode())
        return digest.hexdigest()

    def __len__(self) -> int:
        return len(self.examples)

    def scores(self, job: "InTraining") -> dict[str, float]:
        """`eval_grounded` and `eval_total_score`, each the mean of the dimensions' means, and the seconds that it took.

        Every rank calls it. Without scores, and with a line that says why, where an example could not be answered:
        means over the others would be of another subset.
        """
        from leap.inference.hf import HfEngine, LoadedModel
        from leap.models.twin import twin

        started, accelerator = time.monotonic(), job.accelerator
        if self._engine is None:
            loaded = LoadedModel(twin(job.model), job.processor)
            workers, device = job.recipe.dataloader_num_workers, str(accelerator.device)
            self._engine = HfEngine(loaded, self._settings.images, device, job.recipe.dtype, workers=workers)
        mine = self._requests[accelerator.process_index :: accelerator.num_processes]
        with accelerator.autocast():
            answered = list(self._engine.responses(mine, self._settings.decoding))
        self._engine.free_memory()
        responses = [response for share in job.ranks.gather(answered) for response in share]
        found = {} if self._warn_of_failures(job, responses) else self._means(responses)
        return {**found, "eval_benchmark_runtime": round(time.monotonic() - started, 4)}

    def _warn_of_failures(self, job: "InTraining", responses: Sequence[Response]) -> bool:
        failed = [response for response in responses if response.error is not None]
        if failed and job.accelerator.is_main_process:
            place, error = "/".join(failed[0].key), failed[0].error
            print(
                f"warning: step {job.state.global_step}: {len(failed)} of the benchmark's {len(self)} examples have no "
                f"response ({place}: {error}), so it has no score of this step",
                file=sys.stderr,
            )
        return bool(failed)

    def _means(self, responses: Sequence[Response]) -> dict[str, float]:
        predictions = {(one.key[0], *example_and_repeat(one.key)[0]): as_prediction(one, "") for one in responses}
        means: dict[str, list[float]] = {TOTAL: [], GROUNDED: []}
        for dimension in dict.fromkeys(example.dimension for example in self.examples):
            mine = [example for example in self.examples if example.dimension == dimension]
            found = {example.key: predictions[dimension, *example.key] for example in mine}
            scores, _ = score_predictions(mine, found, self._settings.scorer)
            of_all = [one for by_example in scores.values() for one in by_example.values()]
            for name, values in means.items():
                if known := [value for one in of_all if (value := one[name]) is not None]:
                    values.append(fmean(known))
        return {f"eval_{name}": fmean(values) for name, values in means.items() if values}


def draw_examples(pools: Sequence[Sequence[BenchmarkExample]], number: int, seed: int) -> list[BenchmarkExample]:
    """So many examples of these dimensions, each giving as many as the others while it has some, drawn with the seed.

    Raises LeapError where there are fewer.
    """
    if number > (there := sum(map(len, pools))):
        raise LeapError(f"eval_benchmark={number}: the benchmark has {there} examples here; ask for fewer")
    shuffled = [random.Random(f"{seed}/{pool[0].dimension}").sample(list(pool), len(pool)) for pool in pools]
    turns = [(place, turn) for turn, pool in enumerate(shuffled) for place in range(len(pool))]
    return [shuffled[turn][place] for place, turn in sorted(turns)[:number]]


def benchmark_maker(data: Path, checkout: Path, max_new_tokens: int) -> "Callable[[Recipe], TrainingBenchmark]":
    """What a run calls to have its benchmark, if its recipe asks for one; for the rest see `TrainingBenchmark`."""
    return partial(TrainingBenchmark, data, checkout, max_new_tokens)
