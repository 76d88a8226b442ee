"""The same results as logs of inspect_ai, one a model and dimension: `inspect view --log-dir FOLDER` opens them.

Written by inspect_ai's own library, the optional extra `inspect`. A sample is an example (an epoch is a repeat): the
instruction and the images that the model was shown, the reference as its target, the response, the scores. The prompt
that stood before the instruction is not kept by results, but as a hash.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from leap.data.image import BlankImage
from leap.errors import LeapError
from leap.evaluation.manifest import read_manifest
from leap.evaluation.predictions import Key
from leap.progress import track
from leap.records.benchmark import Prediction
from leap.records.files import check_folder, replacing
from leap.report.page.page_images import FOLDER as IMAGES
from leap.report.page.page_images import write_images
from leap.report.page.stored_results import StoredDimension, StoredResult, read_dimension
from leap.report.results import result_folders
from leap.vlabench.dimensions import NAMES

_SHOWN = ("total_score", "grounded")  # in the viewer's list; all others stand with the first
_STOPPED = {"stop": "stop", "length": "max_tokens", "refused": "content_filter", "filtered": "content_filter"}


def require_inspect() -> None:
    """Raises LeapError where inspect_ai is not installed."""
    if find_spec("inspect_ai") is None:
        raise LeapError('--inspect_log needs inspect_ai: pip install -e ".[inspect]"')


def write_inspect_logs(results: Path, data: Path, models: Sequence[str], report: Path, folder: Path) -> list[Path]:
    """<dimension>_<model>.eval in `folder`, for each result. `report` is one that was built: its images are taken."""
    from inspect_ai.log import write_eval_log

    check_folder(folder)
    manifests = {(name, model): read_manifest(found) for name, model, found in result_folders(results, models)}
    written = []
    for name in track(NAMES, "logs for inspect view"):
        stored = read_dimension(results, name, data, models)
        with TemporaryDirectory(prefix="leap-inspect-") as made:
            names = write_images(stored.images(), Path(made), report / IMAGES, f"images of {name}")
            images = {file: _data_uri(Path(made, image)) for file, image in names.items() if image}
        for model, result in stored.results.items():
            path = folder / f"{name}_{model}.eval"
            with replacing(path) as temporary:
                write_eval_log(_log(stored, model, result, manifests[name, model], images), temporary, "eval")
            written.append(path)
    return written


def _data_uri(image: Path) -> str:
    return f"data:image/webp;base64,{base64.b64encode(image.read_bytes()).decode('ascii')}"


def _log(
    stored: StoredDimension, model: str, result: StoredResult, manifest: Mapping[str, Any], images: Mapping[Path, str]
) -> Any:
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSpec, EvalStats

    samples = list(_samples(stored, model, result, images))
    usage = manifest.get("usage", {})
    used = _usage(usage.get("prompt_tokens"), usage.get("new_tokens"), usage.get("cost_usd"))
    kept = {name: manifest[name] for name in ("settings", "scorer", "counts", "blind", "versions") if name in manifest}
    return EvalLog(
        status="success" if manifest.get("status", "complete") == "complete" else "cancelled",
        eval=EvalSpec(
            # Another run of this function on the same result is the same evaluation.
            eval_id=_identity(stored.name, model, manifest),
            run_id=_identity(model, manifest.get("start", "")),
            task_id=_identity(stored.name, model),  # of one task id the viewer shows the newest alone
            created=manifest.get("start") or "1970-01-01T00:00:00+00:00",
            task=stored.name,
            model=model,
            dataset=EvalDataset(name="VLABench", samples=len(result.keys)),
            config=EvalConfig(epochs=len(result.repeats) + 1),
            metadata=kept,
        ),
        results=_results(samples),
        stats=EvalStats(
            started_at=manifest.get("start", ""), completed_at=manifest.get("end", ""), model_usage={model: used}
        ),
        samples=samples,
    )


def _usage(prompt: int | None, new: int | None, cost: float | None = None) -> Any:
    from inspect_ai.model import ModelUsage

    read, written = prompt or 0, new or 0
    return ModelUsage(input_tokens=read, output_tokens=written, total_tokens=read + written, total_cost=cost)


def _identity(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:22]


def _results(samples: Sequence[Any]) -> Any:
    from inspect_ai.log import EvalMetric, EvalResults, EvalScore

    scores = []
    for name in _SHOWN:
        values = [sample.scores[name].value for sample in samples if name in (sample.scores or {})]
        metrics = {"mean": EvalMetric(name="mean", value=sum(values) / len(values))} if values else {}
        scores.append(EvalScore(name=name, scorer=name, scored_samples=len(values), metrics=metrics))
    completed = sum(sample.error is None for sample in samples)
    return EvalResults(total_samples=len(samples), completed_samples=completed, scores=scores)


def _samples(stored: StoredDimension, model: str, result: StoredResult, images: Mapping[Path, str]) -> Iterator[Any]:
    for key in (key for key in stored.keys if key in result.keys):
        for repeat, predictions in enumerate([result.predictions, *result.repeats]):
            if key in predictions or not repeat:
                yield _sample(stored, model, result, key, repeat, predictions.get(key), images)


def _sample(
    stored: StoredDimension,
    model: str,
    result: StoredResult,
    key: Key,
    repeat: int,
    prediction: Prediction | None,
    images: Mapping[Path, str],
) -> Any:
    from inspect_ai.log import EvalError, EvalSample
    from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, ModelOutput

    example, diagnosis = stored.examples.get(key), result.diagnoses.get(key)
    own = (example.image, example.numbered_image) if example and result.control == "none" else ()
    shown = result.shown.get(key, own) or ()
    files = [image.like if isinstance(image, BlankImage) else image for image in shown]
    parts = [ContentText(text=example.instruction if example else "(the instruction is not known here)")]
    if not any(isinstance(image, BlankImage) for image in shown):
        parts += [ContentImage(image=images[file]) for file in files if file in images]
    asked = ChatMessageUser(content=parts)
    output = ModelOutput(model=model)
    if prediction is not None and prediction.text is not None:
        output = ModelOutput.from_content(model, prediction.text, _STOPPED.get(prediction.finish or "stop", "unknown"))
    failed = prediction.error if prediction else "missing"
    return EvalSample(
        id="/".join(key),
        epoch=repeat + 1,
        input=[asked],
        target=json.dumps(example.skill_sequence, ensure_ascii=False) if example else "",
        messages=[asked, *(choice.message for choice in output.choices)],
        output=output,
        scores=_scores(result, key, None if diagnosis is None else diagnosis.kind) if not repeat else {},
        model_usage={} if prediction is None else {model: _usage(prediction.prompt_tokens, prediction.new_tokens)},
        error=None if failed is None else EvalError(message=failed, traceback="", traceback_ansi=""),
        metadata={} if diagnosis is None or repeat else diagnosis.model_dump(mode="json"),
    )


def _scores(result: StoredResult, key: Key, kind: str | None) -> dict[str, Any]:
    """The means of all repeats, with the first; `grounded` only where the reference names an object."""
    from inspect_ai.scorer import Score

    scores = result.scores.get(key[0], {}).get(key[1], {})
    found = {
        name: Score(value=value, explanation=kind, metadata=scores if name == _SHOWN[0] else None)
        for name in _SHOWN
        if (value := scores.get(name)) is not None
    }
    return found | ({"diagnosis": Score(value=kind)} if kind else {})
