"""An episode of a LeRobotDataset, as leap.data.lerobot_dataset reads it: a task, its subtasks and what a camera saw."""

from typing import Any, ClassVar

from leap.data.formats.sample_format import FormatName, SampleFormat, Turn, text_parts
from leap.records.training import REQUEST, numbered


class LeRobotEpisode(SampleFormat):
    """`task` is the instruction, `subtasks` in their order are the plan's steps, `image` is the scene before them."""

    name: ClassVar[FormatName] = "lerobot"
    title: ClassVar[str] = "LeRobot's episodes"
    needs: ClassVar[tuple[str, ...]] = ("task", "subtasks")
    example: ClassVar[dict[str, Any]] = {
        "task": "Tidy the table.",
        "subtasks": ["Pick up the cup."],
        "image": "a.png",
    }

    id: Any = None
    task: str
    subtasks: list[str]
    image: Any

    def turns(self) -> list[Turn]:
        task, steps = " ".join(self.task.split()), [" ".join(step.split()) for step in self.subtasks]
        if not task:
            raise ValueError("`task` is empty")
        if not steps or not all(steps):
            raise ValueError(
                f"episode {self.id} has a task and {'an empty subtask' if steps else 'no subtasks'}: an instruction "
                "without a plan to learn; annotate its subtasks (lerobot-annotate), or leave the episode out"
            )
        question = [{"type": "image", "image": self.image}, *text_parts(REQUEST.replace("{instruction}", task))]
        return [Turn("user", question), Turn("assistant", text_parts(numbered(steps)))]
