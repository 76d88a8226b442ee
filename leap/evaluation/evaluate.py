"""Models on dimensions: predict, score, and manifests from which the numbers can be made again."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

from leap import provenance
from leap.evaluation.result_folder import DimensionResult, ResultFolder
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings
from leap.inference.protocol import Engine
from leap.models.checkpoints import UNKNOWN_FILES
from leap.progress import track
from leap.records.upload import Upload
from leap.vlabench.dimensions import Dimension


def evaluate_models(
    models: Iterable[EvaluatedModel],
    dimensions: Sequence[Dimension],
    settings: EvaluationSettings,
    load: Callable[[EvaluatedModel], Engine],
    results: Path,
    repository: Path,
    archive: Path | None = None,
    upload: Upload | None = None,
) -> list[DimensionResult]:
    """Every model on every dimension, into `results`/<dimension>/<model>/. Finished examples are kept.

    Answers that were made otherwise (another model, prompt, data set, scorer, decoding) are refused with LeapError, or
    moved to a folder under `archive` where one is given. Complete results are sent where `upload` says.
    """
    finished = []
    for model in models:
        with ExitStack() as held:
            folders = [
                held.enter_context(ResultFolder(results, model, dimension, settings, repository))
                for dimension in dimensions
            ]
            if archive is not None:  # when all of them are ours
                place = archive / provenance.now().replace(":", "")
                for folder in folders:
                    folder.move_away(place)
            for folder in folders:
                folder.begin()
            _note_unknown_files(model, folders)
            _ask(model, folders, settings, load)
            for folder in folders:
                finished.append(folder.finish())
                if upload and finished[-1].counts.complete:
                    upload.send(folder.path)
    return finished


def _note_unknown_files(model: EvaluatedModel, folders: Sequence[ResultFolder]) -> None:
    older = [folder.dimension.name for folder in folders if folder.of_unknown_files]
    if older:
        print(f"{model.name}: its stored answers ({', '.join(older)}) are {UNKNOWN_FILES}")


def _ask(
    model: EvaluatedModel,
    folders: Sequence[ResultFolder],
    settings: EvaluationSettings,
    load: Callable[[EvaluatedModel], Engine],
) -> None:
    """All that is unanswered, of all dimensions at once: an engine is fastest where it never waits for the last few.

    The model is loaded once, and not at all where nothing is left to ask it.
    """
    asked = {folder.dimension.name: folder for folder in folders if folder.waiting}
    waiting = [request for folder in asked.values() for request in folder.waiting]
    if not waiting:
        return
    for folder in asked.values():
        folder.open()
    with closing(load(model)) as engine:
        responses = engine.responses(
            waiting, settings.decoding
        )  # a server of ours starts here, made for these requests
        for folder in asked.values():
            folder.note_engine(engine)
        before = time.monotonic()
        for response in track(responses, model.name, total=len(waiting)):
            now = time.monotonic()
            asked[response.key[0]].record(response, now - before)
            before = now
        for folder in asked.values():  # a server gives its model's name with its answers
            folder.note_engine(engine, again=True)
