"""Models on dimensions: predict, score, and manifests from which the numbers can be made again."""

import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path
from typing import Any

from leap import provenance
from leap.errors import LeapError, without_frames
from leap.evaluation.result_folder import DimensionResult, ResultFolder
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings
from leap.inference.protocol import Engine, Request, Response
from leap.progress import track
from leap.records.upload import Upload
from leap.terminal import in_one_line
from leap.vlabench.dimensions import Dimension


class ModelRun:
    """One model on its dimensions; their folders are held until `close`, or the end of a `with` block.

    Raises LeapError where the stored answers were made otherwise, unless `archive` says where to move them.
    """

    def __init__(
        self,
        model: EvaluatedModel,
        dimensions: Sequence[Dimension],
        settings: EvaluationSettings,
        results: Path,
        repository: Path,
        archive: Path | None = None,
    ) -> None:
        self.model = model
        self.failure: LeapError | None = None
        with ExitStack() as held:
            self._folders = [
                held.enter_context(ResultFolder(results, model, dimension, settings, repository))
                for dimension in dimensions
            ]
            if archive is not None:  # when all of them are ours
                place = archive / provenance.now().replace(":", "")
                for folder in self._folders:
                    folder.move_away(place)
            for folder in self._folders:
                folder.begin()
            self._held = held.pop_all()
        self._asked = {folder.dimension.name: folder for folder in self._folders if folder.waiting}

    def __enter__(self) -> "ModelRun":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._held.close()

    @property
    def requests(self) -> list[Request]:
        """All that is unanswered, of all dimensions: an engine is fastest where it never waits for the last few."""
        return [request for folder in self._asked.values() for request in folder.waiting]

    def open(self) -> None:
        """Make ready for answers, before anything is loaded to give them."""
        for folder in self._asked.values():
            folder.open()

    def note_engine(self, described: dict[str, Any], again: bool = False) -> None:
        """What answers, as an engine describes itself; `again` renews the note."""
        for folder in self._asked.values():
            folder.note_engine(described, again)

    def record(self, response: Response, seconds: float, sync: bool = True) -> None:
        """Put an answer on disk, with `sync` at once; `seconds` have passed since the one before it."""
        self._asked[response.key[0]].record(response, seconds, sync)

    def sync(self) -> None:
        """What is recorded is on disk when this returns."""
        for folder in self._asked.values():
            folder.sync()

    def finish(self) -> list[DimensionResult]:
        """The scores of what is answered. Raises the LeapError that ended the asking, if one did."""
        if self.failure:
            raise self.failure
        return [folder.finish() for folder in self._folders]


# Gives each run back when it has been asked all that it waits for, or has its `failure`.
Answering = Callable[[Iterable[ModelRun]], Generator[ModelRun, None, None]]
Load = Callable[[EvaluatedModel], AbstractContextManager[Engine]]  # which says what becomes of the engine afterwards


def in_this_process(load: Load, settings: EvaluationSettings) -> Answering:
    """One model after the other. It is loaded once, and not at all where nothing is left to ask it."""

    def answered(runs: Iterable[ModelRun]) -> Generator[ModelRun, None, None]:
        for run in runs:
            with run:
                try:
                    _ask(run, load, settings)
                except LeapError as error:
                    run.failure = without_frames(error)
                yield run

    return answered


def _ask(run: ModelRun, load: Load, settings: EvaluationSettings) -> None:
    if not (waiting := run.requests):
        return
    run.open()
    # A server of ours starts with `responses`, made for these requests.
    with load(run.model) as engine, closing(engine.responses(waiting, settings.decoding)) as responses:
        run.note_engine(engine.describe())
        before = time.monotonic()
        for response in track(responses, run.model.name, total=len(waiting)):
            now = time.monotonic()
            run.record(response, now - before)
            before = now
        run.note_engine(engine.describe(), again=True)  # a server gives its model's name with its answers


def evaluate_models(
    models: Sequence[Callable[[], EvaluatedModel]],
    dimensions: Sequence[Dimension],
    settings: EvaluationSettings,
    answered: Answering,
    results: Path,
    repository: Path,
    archive: Path | None = None,
    upload: Upload | None = None,
) -> tuple[list[DimensionResult], list[LeapError]]:
    """Every model on every dimension, into `results`/<dimension>/<model>/; and why models have failed, each in a line
    when it does, while the others go on. The only one's failure is raised. Finished examples are kept.

    Answers that were made otherwise (another model, prompt, data set, scorer, decoding) are refused with LeapError, or
    moved to a folder under `archive` where one is given. Complete results are sent where `upload` says.
    """
    finished: list[DimensionResult] = []
    failed: list[LeapError] = []

    def leave_out(error: LeapError) -> None:
        if len(models) == 1:
            raise error
        print(in_one_line(f"error: {error}"), file=sys.stderr, flush=True)
        failed.append(without_frames(error))

    def runs() -> Iterator[ModelRun]:
        for identified in models:
            try:
                run = ModelRun(identified(), dimensions, settings, results, repository, archive)
            except LeapError as error:
                leave_out(error)
            else:
                yield run

    with closing(answered(runs())) as found:
        for run in found:
            try:
                for result in run.finish():
                    finished.append(result)
                    if upload and result.counts.complete:
                        upload.send(result.folder)
            except LeapError as error:
                leave_out(error)
    return finished, failed
