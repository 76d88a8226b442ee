"""Step one of an evaluation: a model's answers, kept as they come, asked once."""

from collections.abc import Callable
from pathlib import Path

from leap.evaluation.requests import build_requests, request_hash
from leap.evaluation.settings import EvaluationSettings
from leap.inference.protocol import Answer, Engine
from leap.progress import track
from leap.records.benchmark import BenchmarkExample, Prediction
from leap.records.files import JsonlAppender, read_jsonl, remove_torn_line


def read_predictions(path: Path) -> dict[tuple[str, str], Prediction]:
    """The last prediction of each (task, example) in the file; none where there is no file yet."""
    remove_torn_line(path)
    if not path.is_file() or path.stat().st_size == 0:
        return {}
    return {(record.task, record.example): record for _, record in read_jsonl(path, Prediction)}


def predict(
    examples: list[BenchmarkExample],
    pool: list[BenchmarkExample],
    settings: EvaluationSettings,
    load: Callable[[], Engine],
    path: Path,
    label: str,
) -> dict[tuple[str, str], Prediction]:
    """Ask the model for every example that has no answer yet; the engine is loaded only where there is one to ask.

    `pool` is the whole dimension, which few-shot examples are drawn from. An example whose inference failed stands in
    the file with its error and is asked again by the next call.
    """
    predictions = read_predictions(path)
    requests = build_requests(examples, pool, settings)
    hashes = {request.key: request_hash(request) for request in requests}
    answered = {key for key, prediction in predictions.items() if _answers(prediction, hashes.get(key))}
    waiting = [request for request in requests if request.key not in answered]
    if waiting:
        with JsonlAppender(path) as file:
            for answer in track(load().answers(waiting, settings.decoding), label, total=len(waiting)):
                predictions[answer.key] = _prediction(answer, hashes[answer.key])
                file.append(predictions[answer.key])
    return {key: predictions[key] for key in hashes if key in predictions and predictions[key].request == hashes[key]}


def _answers(prediction: Prediction, request: str | None) -> bool:
    """Whether a stored answer is one to this very request: the data may have changed since."""
    return prediction.error is None and prediction.request == request


def _prediction(answer: Answer, request: str) -> Prediction:
    task, example = answer.key
    fields = {name: getattr(answer, name) for name in ("text", "finish", "prompt_tokens", "new_tokens", "error")}
    return Prediction(task=task, example=example, request=request, **fields)
