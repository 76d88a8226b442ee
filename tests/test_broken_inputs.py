"""Every broken input: one clear line that says what, where and what to do, and a non-zero exit."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TINY_RECIPE, run_script

FINETUNE = "scripts/training/run-finetuning.py"
EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"
TINY = (
    f"--recipe {TINY_RECIPE} --max_steps 1 --warmup_steps 0 --per_device_train_batch_size 2 --image_tokens_min 4 "
    "--image_tokens_max 9"
).split()


@pytest.fixture
def root(workspace: Path, tmp_path: Path) -> Path:
    """A workspace of one's own to break."""
    for part in ("data", "dataset", "models/tiny"):
        shutil.copytree(workspace / part, tmp_path / "demo" / part)
    return tmp_path / "demo"


def one_line(stderr: str) -> str:
    (line,) = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in stderr
    return line


def edit_row(root: Path, edit: Callable[[str], str]) -> None:
    path = root / "data" / "train_demo.jsonl"
    first, second, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, edit(second), *rest]) + "\n")


def without_steps(line: str) -> str:
    return json.dumps({**json.loads(line), "target": {}})


def with_video(line: str) -> str:
    return line.replace('"type":"image"', '"type":"video"')


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda line: line[: len(line) // 2], "train_demo.jsonl:2"),
        (without_steps, "train_demo.jsonl:2: target.steps"),
        (
            with_video,
            "video files are not read; extract frames (ffmpeg -i FILE -vf fps=1 frame-%03d.png) and list these images",
        ),
        (lambda line: line.replace("images/train", "images/lost"), "missing"),
    ],
)
def test_a_broken_training_row(root: Path, edit: Callable[[str], str], words: str) -> None:
    edit_row(root, edit)
    done = run_script(FINETUNE, *TINY, "--dry_run", root=root)
    assert done.returncode == 1
    assert words in one_line(done.stderr)
    assert "train_demo.jsonl:2" in one_line(done.stderr)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_truncated_training_image(root: Path, workers: str) -> None:
    for image in (root / "data" / "images").glob("train_*.png"):
        image.write_bytes(image.read_bytes()[:3000])
    done = run_script(FINETUNE, *TINY, "--dataloader_num_workers", workers, root=root)
    assert done.returncode == 1
    assert "cannot be decoded as an image" in one_line(done.stderr)
    assert "train_demo.jsonl:" in one_line(done.stderr)


def test_an_empty_training_file(root: Path) -> None:
    (root / "data" / "train_demo.jsonl").write_text("")
    done = run_script(FINETUNE, *TINY, root=root)
    assert (done.returncode, "empty" in one_line(done.stderr)) == (1, True)


def test_a_checkpoint_without_weights(root: Path) -> None:
    (root / "models" / "tiny" / "model.safetensors").unlink()
    for script, options in ((FINETUNE, TINY), (EVALUATE, ["--checkpoint", "models/tiny"])):
        done = run_script(script, *options, root=root)
        assert done.returncode == 1
        assert "no weights" in one_line(done.stderr)


def test_weights_cut_short(root: Path) -> None:
    weights = root / "models" / "tiny" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    done = run_script(EVALUATE, "--checkpoint", "models/tiny", root=root)
    assert done.returncode == 1
    assert "cannot be loaded" in one_line(done.stderr)


def test_a_model_that_is_not_there(root: Path) -> None:
    done = run_script(EVALUATE, "--checkpoint", "output/checkpoint-999", root=root)
    assert done.returncode == 1
    assert "output/checkpoint-999" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("models/Qwen3-VL-4B-Instruct", "bash scripts/download/download_model.sh Qwen/Qwen3-VL-4B-Instruct"),
        ("models/mine", "bash scripts/download/download_model.sh OWNER/mine"),
        ("output/checkpoint-5000", "python scripts/download/download_leap_data.py --checkpoints 5000"),
    ],
)
def test_a_model_that_is_not_there_is_reported_with_the_command_that_brings_it(
    root: Path, folder: str, command: str
) -> None:
    refused = run_script("scripts/evaluation/run_vlm_evaluation.py", "--checkpoint", folder, root=root)
    assert refused.returncode == 1
    assert command in one_line(refused.stderr)
    (root / folder).mkdir(parents=True)
    (root / folder / "config.json").write_text("{}")
    refused = run_script("scripts/evaluation/run_vlm_evaluation.py", "--checkpoint", folder, root=root)
    assert command in one_line(refused.stderr)  # nor are its weights


def test_an_unknown_dimension_is_wrong_usage(root: Path) -> None:
    done = run_script(EVALUATE, "--dimension", "Complexity", root=root)
    assert done.returncode == 2
    assert "Complexity" in one_line(done.stderr)


def test_a_truncated_benchmark_image_is_counted_and_not_scored(root: Path) -> None:
    """The others go on; the example is no zero but has no score, and the exit code says that something is missing."""
    (task,) = (root / "dataset" / "vlm_evaluation_v1.0" / "Spatial").iterdir()
    image = task / "example1" / "input" / "input.png"
    image.write_bytes(image.read_bytes()[:3000])
    options = "--checkpoint models/tiny --dimension spatial --max_new_tokens 4 --image_tokens_min 4".split()
    done = run_script(EVALUATE, *options, "--image_tokens_max", "9", "--model_name", "m", root=root)
    assert done.returncode == 1
    assert "INCOMPLETE" in done.stdout
    folder = root / "eva_results" / "Spatial" / "m"
    assert list(json.loads((folder / "final_score.json").read_text())[task.name]) == ["0"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "incomplete"
    assert manifest["counts"]["inference_error"] == 1


def test_checkpoints_of_somebody_else_are_not_overwritten(root: Path) -> None:
    foreign = Path(shutil.copytree(root / "models" / "tiny", root / "output" / "checkpoint-200"))
    before = (foreign / "model.safetensors").read_bytes()
    done = run_script(FINETUNE, *TINY, root=root)
    assert done.returncode == 1
    assert "LEAP did not write it" in one_line(done.stderr)
    assert (foreign / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("script", "options"),
    [
        (FINETUNE, [*TINY, "--output_dir", "eva_results"]),
        (EVALUATE, ["--checkpoint", "models/tiny", "--dimension", "spatial", "--max_new_tokens", "2"]),
    ],
)
def test_an_output_folder_that_is_a_file(root: Path, script: str, options: list[str]) -> None:
    (root / "eva_results").write_text("not a folder")
    done = run_script(script, *options, root=root)
    assert done.returncode == 1
    assert "eva_results" in one_line(done.stderr)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"  \n"])
def test_an_instruction_that_cannot_be_read(root: Path, content: bytes) -> None:
    path = next((root / "dataset").glob("*/Spatial/*/example0/input/instruction.txt"))
    path.write_bytes(content)
    done = run_script(EVALUATE, "--checkpoint", "models/tiny", "--dimension", "spatial", root=root)
    assert done.returncode == 1
    assert str(path) in one_line(done.stderr)


def test_a_byte_order_mark_is_read_over(root: Path) -> None:
    path = root / "data" / "train_demo.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert run_script(FINETUNE, *TINY, "--dry_run", root=root).returncode == 0


@pytest.mark.parametrize("size", [(1000, 2), (2, 1000)])
def test_an_image_too_narrow_for_the_model(root: Path, size: tuple[int, int]) -> None:
    from PIL import Image

    image = next((root / "dataset").glob("*/Spatial/*/example1/input/input.png"))
    Image.new("RGB", size).save(image)
    options = "--checkpoint models/tiny --dimension spatial --max_new_tokens 2 --image_tokens_min 4".split()
    done = run_script(EVALUATE, *options, "--image_tokens_max", "9", root=root)
    assert done.returncode == 1
    assert "1 inference errors" in done.stdout


@pytest.mark.parametrize("option", ["--training_samples", "--size", "--examples_per_task", "--tasks_per_dimension"])
def test_a_demo_of_nothing_is_wrong_usage(tmp_path: Path, option: str) -> None:
    done = run_script("scripts/utils/make_demo_workspace.py", "--root", str(tmp_path / "d"), option, "0")
    assert done.returncode == 2
    assert option in one_line(done.stderr)


def test_a_deepspeed_file_that_is_not_there(root: Path) -> None:
    done = run_script(FINETUNE, *TINY, "--deepspeed", "zero2.json", root=root)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
