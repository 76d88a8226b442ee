"""LeRobotDataset v3 as samples: of each episode the task, the subtasks in their order, and a camera's first frame.

A task is an instruction and no plan. The steps of a plan are the subtasks, which v3 has in one of two places in
data/*/*.parquet, whose rows are frames:
    language_persistent    by lerobot 0.6 and newer: rows of style "subtask" with times, the same on all frames
    subtask_index          by older ones: a frame's number in meta/subtasks.parquet; -1 where it has none
A camera's frames lie in these tables as images, or in videos/CAMERA/*/*.mp4, where meta/episodes says which is an
episode's first. lerobot itself is not needed; it cannot be installed beside LEAP.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from leap.data.sample_files import table_rows
from leap.errors import LeapError, first_line
from leap.records.json_files import first_problem, read_model

Named = TypeVar("Named")
INFO = "meta/info.json"
_READING = 1  # to be raised when something else is read of an episode
_LANGUAGE, _INDEX = "language_persistent", "subtask_index"
_NUMBERS = ("episode_index", "frame_index", "task_index")


class _Feature(BaseModel):
    dtype: str
    info: dict[str, Any] | None = None

    @property
    def is_camera(self) -> bool:
        """Depth is no image that a planner is shown."""
        depth = any((self.info or {}).get(key) for key in ("is_depth_map", "video.is_depth_map"))
        return self.dtype in ("image", "video") and not depth


class _Info(BaseModel):
    codebase_version: str
    features: dict[str, _Feature]


class _Said(BaseModel):
    """A row of the language column."""

    style: str | None = None
    content: str | None = None
    timestamp: float


_SAID = TypeAdapter(list[_Said])


class Camera(NamedTuple):
    """A feature by its name, whose frames are images in the tables or a video."""

    name: str
    is_video: bool


def find_camera(root: Path, wanted: str | None, place: Path) -> Camera:
    """The camera that is wanted, by its name or the end of it, or the only one.

    Raises LeapError where that is none, or several, and for a data set of another version.
    """
    info = read_model(root / INFO, _Info)
    if not info.codebase_version.startswith("v3."):
        raise LeapError(
            f"{place}: a LeRobotDataset {info.codebase_version}, and LEAP reads v3; convert it: python -m "
            "lerobot.scripts.convert_dataset_v21_to_v30"
        )
    cameras = [name for name, feature in info.features.items() if feature.is_camera]
    ends = [name for name in cameras if wanted is None or name.endswith(f".{wanted}")]
    found = [wanted] if wanted in cameras else ends
    if not cameras:
        raise LeapError(f"{place}: it has no camera, and a sample needs an image")
    if len(found) != 1:
        said = "it has several cameras" if found else f"it has no camera {wanted!r}"
        given = str(place).removesuffix(f":{wanted}")
        raise LeapError(f"{place}: {said}; give one: {', '.join(f'{given}:{name}' for name in cameras)}")
    return Camera(found[0], info.features[found[0]].dtype == "video")


def load_episodes(root: Path, camera: Camera, place: Path, cache: Path | None) -> Any:
    """A data set of episodes (id, task, subtasks, image), kept in `cache`, so that frames are decoded once.

    Raises LeapError where no episode can have a plan, and for what cannot be read.
    """
    from datasets import Dataset, Features, Image, List, Value
    from datasets.exceptions import DatasetGenerationError

    files = _tables(root, "data")
    if not files:
        raise LeapError(f"{place}: there is no data/*/*.parquet in it; fetch it whole")
    if not {_LANGUAGE, _INDEX} & _columns(files[0]):
        raise LeapError(
            f"{place}: its episodes have tasks and no subtasks ({_LANGUAGE} or {_INDEX}): instructions without a plan "
            "to learn; annotate them (lerobot-annotate), or write samples with plans of your own"
        )
    features = {"id": Value("string"), "task": Value("string"), "subtasks": List(Value("string")), "image": Image()}
    given = {"root": root, "camera": camera, "state": _state(root, camera)}
    try:
        return Dataset.from_generator(
            _episodes, Features(features), cache_dir=str(cache) if cache else None, gen_kwargs=given
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, LeapError):
            raise error.__cause__ from None
        raise


def _tables(root: Path, folder: str) -> list[Path]:
    return sorted((root / folder).glob("*/*.parquet"))


def _columns(file: Path) -> set[str]:
    found = set(next((row for _, row in table_rows(file, [*_NUMBERS, _LANGUAGE, _INDEX])), ()))
    if lacking := {*_NUMBERS} - found:
        raise LeapError(f"{file}: it has no {', '.join(sorted(lacking))}, and is no table of a LeRobotDataset")
    return found


def _state(root: Path, camera: Camera) -> str:
    """Another one when a file changes, by its size or time: the contents are too much to read at each start."""
    folders = ("meta", "data", *([f"videos/{camera.name}"] if camera.is_video else []))
    files = sorted(path for folder in folders for path in (root / folder).rglob("*") if path.is_file())
    seen = [(path.relative_to(root).as_posix(), (at := path.stat()).st_size, at.st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps([_READING, seen]).encode()).hexdigest()


def _episodes(root: Path, camera: Camera, state: str) -> Iterator[dict[str, Any]]:
    """`state` is for the cache, which is found again by what is given here."""
    tasks = _texts(root / "meta" / "tasks.parquet", "task_index")
    places = _video_places(root, camera.name) if camera.is_video else {}
    for file in _tables(root, "data"):
        indexed = _INDEX in _columns(file)
        subtasks = _texts(root / "meta" / "subtasks.parquet", _INDEX) if indexed else {}
        numbers = _numbers(file)
        for _, row in table_rows(file, [*_NUMBERS, _LANGUAGE, *([] if camera.is_video else [camera.name])], _begins):
            episode = row["episode_index"]
            asked, done = numbers[episode]
            where = f"{root}: episode {episode}"
            if len({*asked}) != 1:
                raise LeapError(f"{where} has {len({*asked})} tasks, and a plan is for one; leave the episode out")
            yield {
                "id": str(episode),
                "task": _named(tasks, asked[0], f"{where}: task"),
                "subtasks": _said(row, where) or [_named(subtasks, number, f"{where}: subtask") for number in done],
                "image": _video_frame(*_named(places, episode, f"{where}: video of episode"))
                if camera.is_video
                else row.get(camera.name),
            }
            del numbers[episode]
        if numbers:
            raise LeapError(f"{file}: episode {min(numbers)} has no frame 0; fetch the data set whole")


def _begins(batch: Any) -> Any:
    import pyarrow.compute as pc

    return pc.equal(batch["frame_index"], 0)


def _texts(file: Path, key: str) -> dict[int, str]:
    """Texts by number. The text was pandas' index when it was written, with a name or without."""
    found = {}
    for place, row in table_rows(file):
        texts = [value for value in row.values() if isinstance(value, str)]
        if key not in row or len(texts) != 1:
            raise LeapError(f"{file}: row {place}: {key} and one text are expected, found {', '.join(row)}")
        found[row[key]] = texts[0]
    return found


def _named(known: Mapping[int, Named], number: int, what: str) -> Named:
    if number not in known:
        raise LeapError(f"{what} {number} is not in meta/; fetch the data set whole")
    return known[number]


def _numbers(file: Path) -> dict[int, tuple[list[int], list[int]]]:
    """Of each episode the tasks and the subtasks of its frames, once for as long as one goes on."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for _, row in table_rows(file, [*_NUMBERS, _INDEX]):
        for numbers, number in zip(
            found.setdefault(row["episode_index"], ([], [])), (row["task_index"], row.get(_INDEX)), strict=True
        ):
            if number is not None and number >= 0 and numbers[-1:] != [number]:
                numbers.append(number)
    return found


def _said(row: Mapping[str, Any], where: str) -> list[str]:
    """The subtasks of the language column, in the order in which they begin."""
    try:
        said = _SAID.validate_python(row.get(_LANGUAGE) or [])
    except ValidationError as error:
        raise LeapError(f"{where}: {_LANGUAGE}: {first_problem(error)}") from error
    return [
        one.content for one in sorted(said, key=lambda one: one.timestamp) if one.style == "subtask" and one.content
    ]


def _video_places(root: Path, camera: str) -> dict[int, tuple[Path, float]]:
    """Of each episode the file of a camera's video, and the second at which it begins there."""
    folder = f"videos/{camera}"
    columns = ["episode_index", *(f"{folder}/{name}" for name in ("chunk_index", "file_index", "from_timestamp"))]
    found = {}
    for file in _tables(root, "meta/episodes"):
        for _, row in table_rows(file, columns):
            if len(row) < len(columns) or None in row.values():
                raise LeapError(f"{file}: it does not say where the videos of {camera} lie; fetch the data set whole")
            episode, chunk, number, seconds = (row[name] for name in columns)
            found[episode] = root / folder / f"chunk-{chunk:03d}" / f"file-{number:03d}.mp4", seconds
    return found


def _video_frame(file: Path, seconds: float) -> dict[str, Any]:
    """A frame as a PNG. It is taken by its number: just before its time, which was rounded, another episode ends."""
    from PIL import Image

    decoder = _decoder(file)
    try:
        frame = decoder.get_frame_at(round(seconds * decoder.metadata.average_fps))
    except (RuntimeError, IndexError) as error:
        raise LeapError(f"{file}: no frame at {seconds:.3f} s ({first_line(error)}); fetch the file again") from error
    if abs(frame.pts_seconds - seconds) > 0.1 / decoder.metadata.average_fps:
        raise LeapError(f"{file}: no frame at {seconds:.3f} s, but at {frame.pts_seconds:.3f} s; fetch it again")
    kept = io.BytesIO()
    Image.fromarray(frame.data.permute(1, 2, 0).numpy()).save(kept, "PNG")
    return {"bytes": kept.getvalue(), "path": None}


@lru_cache(maxsize=1)  # episodes lie one after the other in a file
def _decoder(file: Path) -> Any:
    if not file.is_file():
        raise LeapError(f"{file}: there is no such file; fetch the data set whole")
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError) as error:  # the latter two for want of FFmpeg
        raise LeapError(
            f"{file}: torchcodec reads videos, and cannot be loaded ({first_line(error)}); pip install -c "
            'constraints.txt -e ".[video]", and FFmpeg, or name a camera of images'
        ) from error
    try:
        return VideoDecoder(file)
    except (RuntimeError, ValueError) as error:
        raise LeapError(f"{file}: it cannot be read as a video ({first_line(error)}); fetch the file again") from error
