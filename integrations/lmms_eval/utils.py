"""The data set of LEAP's tasks for lmms-eval; docs/evaluation.md says how they are run."""

from typing import Any

from datasets import Dataset, DatasetDict
from lmms_eval.api.task import ConfigurableMessagesTask

from configs.config import WorkspaceConfig
from leap.evaluation.lmms_eval import documents
from leap.vlabench.dimensions import find_dimension
from leap.vlabench.sources import choose_instructions


class VLABenchTask(ConfigurableMessagesTask):
    """One dimension (`dataset_name`), from the benchmark's folder in the workspace: LEAP_ROOT, or else LEAP's own."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={key: value for key, value in config.items() if key != "class"})

    def download(self, dataset_kwargs: dict[str, Any] | None = None) -> None:
        """Read, and not downloaded: lmms-eval's own loader wants one file a split, and tries broken data five times."""
        workspace = WorkspaceConfig.find()
        instructions = choose_instructions("auto", workspace.vlabench)
        examples = documents(workspace.vlm_evaluation, find_dimension(self.config.dataset_name), instructions)
        self.dataset = DatasetDict({self.config.test_split: Dataset.from_list(examples)})
        self.dataset_no_image = self.dataset  # images are paths until a message is made
