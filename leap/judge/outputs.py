"""Step one of a blind review: every model's plans for the same few samples, in one CSV table.

Answers are kept as they come; the same command continues an interrupted run and asks failed requests again. A failure
stands in a column of its own and is never taken for an answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leap import provenance
from leap.data.formats import SampleError
from leap.data.formats.stored_images import ImageFolder
from leap.data.image import ImageSize, resolve_image
from leap.data.sample_datasets import iter_samples
from leap.data.sample_files import SampleFile
from leap.errors import LeapError
from leap.evaluation.evaluate import Load
from leap.evaluation.settings import EvaluatedModel
from leap.inference.protocol import Decoding, Request, Response, request_hash
from leap.judge.review_files import OUTPUT_COLUMNS, OUTPUTS, write_table
from leap.judge.store import ResponseStore, content_key, distinct
from leap.progress import track
from leap.records.json_files import write_json
from leap.records.judging import StoredResponse, join_images
from leap.records.locks import FolderLock
from leap.records.remote import fetch_listed
from leap.records.training import TextPart

STORE = "answers.jsonl"


@dataclass(frozen=True)
class OutputSettings:
    """One setting for every model that is compared."""

    data: Path
    root: Path  # images are written as paths from here
    image_roots: tuple[Path, ...]
    images: ImageSize
    decoding: Decoding
    engine: str = "hf"
    dtype: str | None = None
    quantization: str | None = None
    max_samples: int | None = None
    engine_arguments: tuple[str, ...] = ()  # the engine's own flags, which win over all above
    image_size_source: str = "given"  # who chose `images`; no answer depends on it

    def to_dict(self) -> dict[str, Any]:
        """What an answer depends on, beside its model and request."""
        return {
            "engine": self.engine,
            "dtype": self.dtype,
            "quantization": self.quantization,
            "decoding": self.decoding.to_dict(),
            "image_tokens": [self.images.min_tokens, self.images.max_tokens],
            **({"engine_arguments": list(self.engine_arguments)} if self.engine_arguments else {}),
        }


@dataclass(frozen=True)
class Outputs:
    """The table that was written, and how many of its rows hold an answer, an error, an answer that was cut."""

    path: Path
    answered: int
    failed: int
    truncated: int


def write_outputs(
    models: Iterable[EvaluatedModel],
    settings: OutputSettings,
    load: Load,
    folder: Path,
    repository: Path,
    reuse: bool = True,
) -> Outputs:
    """Ask every model for every sample of the data file, and write blind10_outputs_<time>.csv and .json.

    Where answers are sampled, those of a model that was interrupted are not what an unbroken run would have drawn; the
    manifest says how many are from before, and of all how they were made. A run that asks nothing and finds its table
    there leaves the manifest as it is. Raises LeapError for a row or image that cannot be read, before any model is
    loaded.
    """
    samples = read_samples(settings, ImageFolder(folder / "images"))
    origin = provenance.origin(repository)
    manifest = _manifest(settings) | origin
    with FolderLock(folder), ResponseStore(folder / STORE, origin, reuse) as store:
        rows: list[dict[str, Any]] = []
        for model in models:
            responses, note = _responses(model, samples, settings, load, store)
            path = str(model.folder) if model.folder else None
            manifest["models"].append({**model.to_dict(), "model_path": path, **note})
            rows += [_row(model.name, sample, responses[sample.request.key]) for sample in samples]
        asked = any(model["answers_from_before"] < len(samples) for model in manifest["models"])
        table = write_table(folder, OUTPUTS, rows, OUTPUT_COLUMNS, anew=asked)
        failed = sum(bool(row["error"]) for row in rows)
        found = Outputs(table, len(rows) - failed, failed, sum(row["finish"] == "length" for row in rows))
        counts = {"answered": found.answered, "failed": found.failed, "truncated": found.truncated}
        counts |= {kind: sum(row["finish"] == kind for row in rows) for kind in ("refused", "filtered")}
        counts["empty"] = sum(not (row["error"] or row["model_output"].strip()) for row in rows)
        place = table.with_suffix(".json")
        if asked or not place.is_file():
            write_json(place, {**manifest, "counts": counts, "end": provenance.now()})
    return found


@dataclass(frozen=True)
class Sample:
    """A row of the data file as a request, with what the table says about it."""

    request: Request
    images: tuple[Path, ...]
    shown_images: str
    prompt: str
    reference: str


def read_samples(settings: OutputSettings, stored: ImageFolder) -> list[Sample]:
    """The first rows of the data file, or all. Raises LeapError naming the line of one that cannot be used.

    Images that stand in the file itself go into `stored`.
    """
    samples: list[Sample] = []
    roots = (*settings.image_roots, stored.path)
    for line, row in iter_samples(SampleFile(settings.data), stored):
        if settings.max_samples is not None and len(samples) == settings.max_samples:
            break
        if isinstance(row, SampleError):
            raise LeapError(f"{settings.data}:{line}: {row}; mend or remove this line") from row
        try:
            images = tuple(resolve_image(image, roots) for image in row.images())
        except LeapError as error:
            raise LeapError(f"{settings.data}:{line}: {error}") from error
        texts = [part.text for turn in row.messages for part in turn.parts() if isinstance(part, TextPart)]
        request = Request((str(len(samples)),), tuple(row.messages), images)
        shown = join_images([_shown(path, settings.root) for path in images])
        samples.append(Sample(request, images, shown, "\n".join(texts), row.target.steps))
    fetch_listed(image for sample in samples for image in sample.images)
    return samples


def _shown(path: Path, root: Path) -> str:
    """From the workspace root where the image lies under it, so that the table can move with the workspace."""
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _responses(
    model: EvaluatedModel,
    samples: Sequence[Sample],
    settings: OutputSettings,
    load: Load,
    store: ResponseStore,
) -> tuple[dict[tuple[str, ...], Response | StoredResponse], dict[str, Any]]:
    """(an answer to every sample, what the manifest says of them). The model is loaded only to be asked."""
    keys = {
        sample.request.key: content_key(model.to_dict(), settings.to_dict(), request_hash(sample.request))
        for sample in samples
    }
    before = {key: stored for key, content in keys.items() if (stored := store.get(content))}
    found: dict[tuple[str, ...], Response | StoredResponse] = {**before}
    waiting = [sample.request for sample in samples if sample.request.key not in found]
    made = [stored.made for stored in before.values()]
    if waiting:
        with load(model) as engine:
            for response in track(engine.responses(waiting, settings.decoding), model.name, total=len(waiting)):
                found[response.key] = response
                made.append(store.add(keys[response.key], response, engine))
    return found, {"answers_from_before": len(before), "inference": distinct(made)}


def _row(name: str, sample: Sample, response: Response | StoredResponse) -> dict[str, Any]:
    return {
        "model_name": name,
        "sample_idx": int(sample.request.key[0]),
        "image_paths": sample.shown_images,
        "prompt_text": sample.prompt,
        "model_output": response.text or "",
        "reference_steps": sample.reference,
        "error": response.error or "" if isinstance(response, Response) else "",
        "finish": response.finish or "",
        "prompt_tokens": "" if response.prompt_tokens is None else str(response.prompt_tokens),
        "new_tokens": "" if response.new_tokens is None else str(response.new_tokens),
    }


def _manifest(settings: OutputSettings) -> dict[str, Any]:
    return {
        "settings": settings.to_dict(),
        "image_size_source": settings.image_size_source,
        "data": {
            "path": str(settings.data),
            "sha256": SampleFile(settings.data).fingerprint(),
        },
        "models": [],
    }
