"""Write this folder's data sets with lerobot itself, and what lerobot reads of them. In an environment of its own:

    pip install "lerobot[dataset]==0.6.1"      # Python 3.12; for subtask_index, lerobot==0.4.4
    python tests/data/lerobot/write_datasets.py tests/data/lerobot language     # lerobot 0.6.1
    python tests/data/lerobot/write_datasets.py tests/data/lerobot indexed      # lerobot 0.4.4

`language`: two cameras as images, subtasks in the language column, as lerobot-annotate writes them.
`indexed`: a camera as video, subtask_index and meta/subtasks.parquet.
EXPECTED.json of each has, by episode, the task, the subtask of every frame and the pixels of a camera's first one, as
lerobot's own reader gives them. The committed files were written with Python 3.11, torch 2.14.1, datasets 5.2 and
torchcodec 0.17; for it lerobot 0.6.1's type parameters (`def name[T]`, `type X = `) were put into Python 3.11's words.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FPS, HEIGHT, WIDTH = 10, 48, 64
EPISODES = [  # task, subtasks with the frames that each lasts; None: nobody has said
    ("Put the red cup on the tray", [("Reach for the red cup.", 3), ("Lift it.", 2), ("Put it on the tray.", 4)]),
    ("Throw the can away", [("Grasp the can.", 2), (None, 1), ("Drop it into the bin.", 4)]),
    ("Put the red cup on the tray", [("Reach for the red cup.", 5), ("Lift it.", 1), ("Put it on the tray.", 2)]),
]


def drawn(episode: int, frame: int, camera: int) -> np.ndarray:
    """Of a colour by episode and camera, with a bar where the frame is."""
    image = np.full((HEIGHT, WIDTH, 3), (40 + 80 * episode, 200 - 60 * camera, 60), np.uint8)
    image[:, 4 * frame : 4 * frame + 8] = (250, 250 - 100 * camera, 30)
    return image


def record(root: Path, cameras: list[str], videos: bool) -> None:
    shape = {"shape": (HEIGHT, WIDTH, 3), "names": ["height", "width", "channels"]}
    features = {f"observation.images.{one}": {"dtype": "video" if videos else "image", **shape} for one in cameras}
    features["action"] = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
    made = LeRobotDataset.create("leap/tiny", FPS, features, root=root, use_videos=videos)
    for episode, (task, subtasks) in enumerate(EPISODES):
        for frame in range(sum(frames for _, frames in subtasks)):
            images = {f"observation.images.{one}": drawn(episode, frame, place) for place, one in enumerate(cameras)}
            made.add_frame({**images, "action": np.array([frame, episode], np.float32), "task": task})
        made.save_episode()
    made.finalize()


def annotate(root: Path) -> None:
    """What lerobot-annotate does with what its language model has said."""
    from lerobot.annotations.steerable_pipeline.executor import Executor
    from lerobot.annotations.steerable_pipeline.reader import iter_episodes
    from lerobot.annotations.steerable_pipeline.staging import EpisodeStaging
    from lerobot.annotations.steerable_pipeline.writer import LanguageColumnsWriter

    records = list(iter_episodes(root))
    with tempfile.TemporaryDirectory() as staged:
        for one in records:
            frame, rows = 0, [{"role": "user", "content": "Tidy up.", "style": "task_aug", "timestamp": 0.0}]
            for text, frames in EPISODES[one.episode_index][1]:
                said = {"role": "assistant", "timestamp": one.frame_timestamps[frame]}
                rows += [{**said, "content": text, "style": "subtask"}] if text else []
                rows += [{**said, "content": f"at {frame}", "style": "memory"}]
                frame += frames
            EpisodeStaging(Path(staged), one.episode_index).write("plan", rows)
        LanguageColumnsWriter().write_all(records, Path(staged), root)
    Executor._ensure_annotation_metadata_in_info(root)


def index(root: Path) -> None:
    """As lerobot's guide to subtasks has it: a number of each frame, their texts in meta/subtasks.parquet."""
    texts = sorted({text for _, subtasks in EPISODES for text, _ in subtasks if text})
    table = pd.DataFrame({"subtask_index": range(len(texts))}, index=pd.Index(texts, name="subtask"))
    table.to_parquet(root / "meta" / "subtasks.parquet")
    numbers = [[texts.index(text) if text else -1] * frames for _, subtasks in EPISODES for text, frames in subtasks]
    (file,) = (root / "data").glob("*/*.parquet")
    frames = pd.read_parquet(file)
    frames["subtask_index"] = np.concatenate(numbers)
    frames.to_parquet(file)
    info = json.loads((root / "meta" / "info.json").read_text())
    info["features"]["subtask_index"] = {"dtype": "int64", "shape": [1], "names": None}
    (root / "meta" / "info.json").write_text(json.dumps(info, indent=4))


def expected(root: Path, camera: str) -> dict[str, object]:
    """What lerobot reads."""
    data, episodes = LeRobotDataset("leap/tiny", root=root), {}
    for place in range(len(data)):
        row = data[place]
        episode = episodes.setdefault(
            str(int(row["episode_index"])), {"task": row["task"], "subtasks": [], "pixels": pixels(row[camera])}
        )
        said = [one for one in row.get("language_persistent", []) if one["style"] == "subtask"]
        active = [one["content"] for one in said if one["timestamp"] <= float(row["timestamp"]) + 1e-6]
        number = int(row.get("subtask_index", -1))
        episode["subtasks"].append(active[-1] if active else row["subtask"] if number >= 0 else None)
    return {"lerobot": version("lerobot"), "camera": camera, "episodes": episodes}


def pixels(frame) -> str:  # a tensor [3, height, width] from 0 to 1
    array = (frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    return hashlib.sha256(array.tobytes()).hexdigest()


def main(out: Path, kind: str) -> None:
    root = out / kind
    shutil.rmtree(root, ignore_errors=True)
    record(root, ["front"] if kind == "indexed" else ["front", "wrist"], kind == "indexed")
    {"language": annotate, "indexed": index}[kind](root)
    found = expected(root, "observation.images.front")
    (root / "EXPECTED.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
