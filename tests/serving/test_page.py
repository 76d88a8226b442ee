"""The scenes that the page offers."""

import shutil
from pathlib import Path

import pytest

from leap.vlabench.dimensions import DIMENSIONS

pytest.importorskip("python_multipart", reason="the extra 'serve' is not installed")


def test_a_dimension_that_is_not_whole_is_left_out(workspace: Path, tmp_path: Path) -> None:
    """A service does not end for want of examples."""
    from leap.serving.page import find_page_examples

    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    whole, broken = (folder for folder in sorted(data.iterdir())[:2])
    shutil.copytree(whole, tmp_path / whole.name)
    shutil.copytree(broken, tmp_path / broken.name)
    for reference in (tmp_path / broken.name).rglob("operation_sequence.json"):
        reference.unlink()
    empty = next(folder.name for folder in sorted(data.iterdir())[2:])
    (tmp_path / empty).mkdir()
    ((image, _, _),) = find_page_examples(tmp_path)
    assert Path(image).is_relative_to(tmp_path / whole.name)
    assert len(find_page_examples(data)) == len(DIMENSIONS)
    assert find_page_examples(tmp_path / "nowhere") == []
