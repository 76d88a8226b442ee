"""LOVE-Agibot annotations as training samples: one for each episode, its first frame as the image.

Expected are AgiBot World's task_info files, task_<id>.json, or LOVE-Agibot's output_<id>.json, each a list of episodes:

    [{"episode_id": 648642, "task_id": 327, "task_name": "Picking items in Supermarket",
      "init_scene_text": "The robot is in front of the fruit shelf.",
      "label_info": {"action_config": [{"start_frame": 0, "end_frame": 435,
                                        "action_text": "Pick up the onion from the shelf.", "skill": "Pick"}]}}]

and images named <task>-<episode>.png. AgiBot World's Alpha release writes lable_info. Other keys (key_frame) are
passed over; a missing task_id, as in its Beta release, is taken from the file's name.
"""

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, AliasChoices, BaseModel, Field, ValidationError, model_validator

from leap.errors import LeapError
from leap.preparation.build.candidates import Candidate, LeftOut, make_candidate, sample_path
from leap.preparation.build.phrasing import plain_request, plain_sample
from leap.records.json_files import first_problem, read_json, whole_characters
from leap.records.litter import listed

SOURCE = "love-agibot"
_TASK_FILE = re.compile(r"(?:task|output)_(\d+)")


def _on_one_line(text: str) -> str:
    return " ".join(whole_characters(text).split())


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty")
    return _on_one_line(text)


Said = Annotated[str, AfterValidator(_said)]
Number = Annotated[int, Field(ge=0)]


class Action(BaseModel):
    """One step of an episode, from one frame to another."""

    start_frame: Number
    end_frame: Number
    action_text: Said
    skill: Said

    @model_validator(mode="after")
    def ends_after_it_starts(self) -> "Action":
        if self.end_frame < self.start_frame:
            raise ValueError(f"end_frame {self.end_frame} is before start_frame {self.start_frame}")
        return self


class LabelInfo(BaseModel):
    action_config: list[Action]


class Episode(BaseModel):
    """One entry of a task_info file."""

    episode_id: Number
    task_id: Number | None = None
    task_name: Said
    init_scene_text: Annotated[str, AfterValidator(_on_one_line)] = ""
    label_info: LabelInfo = Field(validation_alias=AliasChoices("label_info", "lable_info"))

    @property
    def key(self) -> str:
        """The name of its image: <task>-<episode>."""
        return f"{self.task_id}-{self.episode_id}"

    def actions(self) -> list[Action]:
        """The steps in the order in which they begin."""
        return sorted(self.label_info.action_config, key=lambda action: action.start_frame)


class Annotations(NamedTuple):
    """What annotation files hold: the episodes, by task and number, and why entries of them are none.

    `others` are JSON files of the folder that were not read, since theirs is no annotation file's name.
    """

    episodes: list[Episode]
    problems: list[str]
    files: list[Path]
    others: list[Path]


def read_annotations(place: Path) -> Annotations:
    """The episodes of an annotation file, or of all in a folder. Raises LeapError for no file and for what is no list.

    Any other JSON file of a folder is read only where none has an annotation file's name.
    """
    there = listed(place, "*.json") if place.is_dir() else [place]
    if not there:
        raise LeapError(
            f"{place}: no task_<id>.json or output_<id>.json there; give AgiBot World's task_info folder, or "
            "LOVE-Agibot's json folder, with --annotations"
        )
    files = [file for file in there if _TASK_FILE.fullmatch(file.stem)] or there
    problems: list[str] = []
    found: dict[str, tuple[Episode, Path]] = {}
    for file in files:
        for episode in _read_file(file, problems):
            first = found.setdefault(episode.key, (episode, file))
            if first[0] is not episode:
                problems.append(f"{file}: episode {episode.episode_id}: it is in {first[1]} already")
    episodes = sorted((episode for episode, _ in found.values()), key=lambda one: (one.task_id or 0, one.episode_id))
    return Annotations(episodes, problems, files, [file for file in there if file not in files])


def _read_file(file: Path, problems: list[str]) -> Iterator[Episode]:
    entries = read_json(file)
    if not isinstance(entries, list):
        raise LeapError(f"{file}: a list of episodes is expected, found {type(entries).__name__}")
    numbered = _TASK_FILE.fullmatch(file.stem)
    named = int(numbered[1]) if numbered else None
    for place, entry in enumerate(entries):
        number = entry.get("episode_id", f"in place {place}") if isinstance(entry, dict) else f"in place {place}"
        try:
            episode = Episode.model_validate(entry)
        except ValidationError as error:
            problems.append(f"{file}: episode {number}: {first_problem(error)}")
            continue
        if episode.task_id is None:
            episode = episode.model_copy(update={"task_id": named})
        if episode.task_id is None:
            problems.append(
                f"{file}: episode {number}: task_id: missing, and the file is not named task_<id> or output_<id>"
            )
        elif named is not None and episode.task_id != named:
            problems.append(f"{file}: episode {number}: task_id: {episode.task_id}, in the file of task {named}")
        else:
            yield episode


def episode_samples(
    episodes: Sequence[Episode], images: Path, roots: Sequence[Path], seed: int, left_out: LeftOut
) -> Iterator[Candidate]:
    """A sample for each episode that has steps and an image; the others go to `left_out`."""
    there = {path.name for path in listed(images, "*.png")}
    for episode in episodes:
        file = f"{episode.key}.png"
        if not episode.label_info.action_config:
            left_out["no steps in the annotation"].append(f"{SOURCE}/{episode.key}")
        elif file not in there:
            left_out["no image"].append(f"{SOURCE}/{episode.key}")
        else:
            yield _row(episode, images / file, roots, seed)


def _row(episode: Episode, image: Path, roots: Sequence[Path], seed: int) -> Candidate:
    request = plain_request(episode.task_name, random.Random(f"{seed}/{episode.key}"), on_a_table=False)
    question = f"{episode.init_scene_text} {request}".strip()
    actions = episode.actions()
    sample = plain_sample(
        f"{SOURCE}/{episode.key}", sample_path(image, roots), question, [action.action_text for action in actions]
    )
    skills = tuple(action.skill for action in actions)
    return make_candidate(SOURCE, str(episode.task_id), sample, image, skills)
