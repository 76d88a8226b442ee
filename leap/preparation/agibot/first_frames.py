"""The first frame of each episode of an archive of frames, chosen while the archive streams by.

Members are named `<anything>/<episode>/<frame>.jpg` (or .jpeg, .png): the folder that holds the frames is the episode's
number, and a number (or task_<number>) above it must be the task's. The first frame is the smallest name in natural
order, in which 2 comes before 10. Members may stand in any order.
"""

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from leap.preparation.agibot.archives import DOWNLOAD_AGAIN, ArchiveError, GzipStream, read_members
from leap.records.litter import is_data

MAX_FRAME = 1 << 25  # bytes of a frame's file
_MAX_NAME, _MAX_FOLDER = 255, 1024  # letters of a frame's name and of what stands before it
_MAX_EPISODES = 100_000
_OPEN_EPISODES, _OPEN_BYTES = 8, 1 << 26  # whose best frames are held in memory at most
_FRAME = re.compile(r".*\.(?:jpg|jpeg|png)", re.IGNORECASE | re.DOTALL)
_EPISODE = re.compile(r"[0-9]{1,20}")
_TASK = re.compile(r"(?:task_)?([0-9]+)")
_NUMBER = re.compile(r"([0-9]+)")

NaturalKey = tuple[tuple[str | int, ...], str]
# what an archive's reader does with an episode's best frame so far: (episode, frame's name, its bytes)
Settle = Callable[[str, str, bytes], None]


def natural_key(name: str) -> NaturalKey:
    """Sorts names as a person does: runs of digits by their value, so that 2.jpg comes before 10.jpg."""
    parts = _NUMBER.split(name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


@dataclass
class _Episode:
    """What is known of an episode so far."""

    folder: str
    key: NaturalKey | None = None  # of its best frame


class FirstFrames:
    """Takes the names of an archive's frames as they come, and the bytes of those that are the first so far.

    Few episodes are open at a time, those that a frame was taken of last; what leaves them goes to `settle`. It may go
    there again, with an earlier frame.
    """

    def __init__(self, task: str, settle: Settle) -> None:
        self._task, self._settle = task, settle
        self._folders: dict[str, str] = {}  # folder -> episode
        self._episodes: dict[str, _Episode] = {}
        self._open: OrderedDict[str, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._episodes)

    def take_all(self, stream: GzipStream) -> None:
        """Go through an archive to its end. Raises ArchiveError; what was settled before is then worth nothing."""
        for member in read_members(stream):
            folder, _, name = member.name.rpartition("/")
            if not _FRAME.fullmatch(name) or not is_data(member.name):
                continue
            if len(name) > _MAX_NAME or len(folder) > _MAX_FOLDER:
                raise stream.broken(f"a name of {len(member.name):,} letters")
            episode = self._folders.get(folder) or self._enter(stream, folder, member.name)
            if self._is_first(episode, name):
                self._keep(episode, stream.content(member, MAX_FRAME))
        self._close(0, 0)
        if not self._episodes:
            raise ArchiveError(f"{stream.path}: no frames (<episode>/<frame>.jpg or .png) in it; {DOWNLOAD_AGAIN}")
        self._refuse_tasks_folder(stream)

    def _is_first(self, episode: str, name: str) -> bool:
        """Whether it comes before every frame of the episode so far; of two with the same name the later counts."""
        found, key = self._episodes[episode], natural_key(name)
        if found.key is not None and key > found.key:
            return False
        found.key = key
        return True

    def _enter(self, stream: GzipStream, folder: str, name: str) -> str:
        """The episode of a folder of frames that is named for the first time, in this spelling."""
        parts = [part for part in folder.split("/") if part not in ("", ".")]
        above, episode = parts[-2:-1], (parts or [""])[-1]
        if not _EPISODE.fullmatch(episode):
            raise ArchiveError(
                f"{stream.path}: {name!r} is not named <episode>/<frame>: the folder that holds frames must be the "
                f"episode's number, and it is {episode!r}"
            )
        task = _TASK.fullmatch(above[0]) if above else None
        if task and int(task[1]) != int(self._task):
            raise ArchiveError(
                f"{stream.path}: {name!r} belongs to task {task[1]}, and the file's name says task {self._task}"
            )
        whole = "/".join(parts)
        found = self._episodes.setdefault(episode, _Episode(whole))
        if found.folder != whole:
            raise ArchiveError(
                f"{stream.path}: episode {episode} has two folders of frames, {found.folder!r} and {whole!r}; which of "
                "them has the first frame cannot be told"
            )
        self._folders[folder] = episode
        if len(self._folders) > _MAX_EPISODES:
            raise stream.broken(f"more than {_MAX_EPISODES:,} folders of frames")
        return episode

    def _refuse_tasks_folder(self, stream: GzipStream) -> None:
        """The task's own folder looks like that of an episode of this number, where it is no folder of the task's.

        It is one where episodes lie beside it. Else many episodes would become one image.
        """
        number = int(self._task)  # leading zeros make no other task
        found = next((one for episode, one in self._episodes.items() if int(episode) == number), None)
        above = _TASK.fullmatch((["", *found.folder.split("/")])[-2]) if found else None
        if found is None or (above and int(above[1]) == number):
            return
        others = [episode.folder for episode in self._episodes.values() if episode is not found]
        if not others or any(other.startswith(f"{found.folder}/") for other in others):
            raise ArchiveError(
                f"{stream.path}: images lie directly in {found.folder!r}, which is the task's folder; each episode "
                f"needs one of its own, {found.folder}/<episode>/<frame>, for its first frame to be known"
            )

    def _keep(self, episode: str, data: bytes) -> None:
        self._open[episode] = data
        self._open.move_to_end(episode)
        self._close(_OPEN_EPISODES, _OPEN_BYTES)

    def _close(self, episodes: int, size: int) -> None:
        """Settle the episodes that were touched longest ago, until so few and so many bytes are left."""
        while len(self._open) > episodes or sum(map(len, self._open.values())) > size:
            episode, data = self._open.popitem(last=False)
            key = self._episodes[episode].key
            assert key is not None
            self._settle(episode, key[1], data)
