"""Rejection sampling: the best responses are kept, and learned by LEAP's own trainer."""

from pathlib import Path

import pytest
from conftest import run_script
from test_recipes import LORA, train

from leap.models.checkpoints import read_marker
from leap.records.benchmark import Prediction
from leap.records.json_files import read_json, read_jsonl, read_store
from leap.records.training import TrainingSample

GRPO = "scripts/training/run-grpo.py"
TINY = (
    "--recipe demo-rft --model_name_or_path models/tiny --freeze_vision false --num_prompts 3 --num_generations 4 "
    "--max_completion_length 8 --image_tokens_min 4 --image_tokens_max 4 --max_steps 2 --warmup_steps 0 --save_steps 2 "
    "--logging_steps 1"
)
OWN = "def reward(response, reference):\n    return response.count('e') / max(len(response), 1)\n"


def test_the_best_of_each_prompt_is_learned(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    own = ["--reward_file", f"{tmp_path / 'mine.py'}:reward", "--reward_weights", "{own: 1.0}"]
    line = [*TINY.split(), "--output_dir", "output/kept", *own]
    done = run_script(GRPO, *line, root=workspace)
    assert done.returncode == 0, done.stderr
    sampling = workspace / "output" / "kept" / "sampling"
    responses = read_store(sampling / "responses.jsonl", Prediction)
    assert len(responses) == 12
    by_prompt: dict[str, list[str]] = {}
    for response in responses:
        by_prompt.setdefault(response.example, []).append(response.text or "")
    reward = lambda text: text.count("e") / max(len(text), 1)  # noqa: E731
    mean = sum(reward(text) for texts in by_prompt.values() for text in texts) / 12
    best = [max(map(reward, by_prompt[str(number)])) for number in range(3)]
    kept = [sample for _, sample in read_jsonl(sampling / "kept.jsonl", TrainingSample)]
    assert sorted(reward(sample.target.steps) for sample in kept) == sorted(value for value in best if value > mean)
    assert read_json(sampling / "sampling_report.json")["kept"] == len(kept)
    checkpoint = workspace / "output" / "kept" / "checkpoint-2"
    assert read_marker(checkpoint)["step"] == 2
    before = (sampling / "responses.jsonl").read_bytes()
    again = run_script(GRPO, *line, root=workspace)
    assert "this run is finished" in again.stdout
    assert (sampling / "responses.jsonl").read_bytes() == before


def test_supervised_samples_are_learned_as_often_as_what_was_kept(workspace: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(OWN)
    own = ["--reward_file", f"{tmp_path / 'mine.py'}:reward", "--reward_weights", "{own: 1.0}"]
    line = [*TINY.split(), "--output_dir", "output/replayed", *own, "--replay_file", "data/train_demo.jsonl"]
    number = len((workspace / "data" / "train_demo.jsonl").read_text().splitlines())
    planned = run_script(GRPO, *line, "--dry_run", root=workspace)
    assert f"replay      {number} samples of data/train_demo.jsonl" in planned.stdout
    done = run_script(GRPO, *line, root=workspace)
    assert done.returncode == 0, done.stderr
    run = workspace / "output" / "replayed"
    files = read_marker(run / "checkpoint-2")["recipe"]["train_file"]
    assert [one["file"] for one in files] == ["output/replayed/sampling/kept.jsonl", "data/train_demo.jsonl"]
    kept = read_json(run / "sampling" / "sampling_report.json")["kept"]
    assert files[0]["weight"] == 1
    assert files[1]["weight"] * number == pytest.approx(kept)


def test_supervised_samples_that_are_not_there_end_it_before_anything_is_sampled(workspace: Path) -> None:
    done = run_script(
        GRPO, *TINY.split(), "--output_dir", "output/none", "--replay_file", "data/no.jsonl", root=workspace
    )
    assert done.returncode == 1
    assert "data/no.jsonl" in done.stderr
    assert not (workspace / "output" / "none" / "sampling" / "responses.jsonl").exists()


def test_sampling_goes_on_where_it_was_stopped(workspace: Path) -> None:
    """To the same responses: each depends on the seed and its own place alone."""
    line = [*TINY.split(), "--output_dir", "output/sampled", "--reward_weights", "{form: 1.0}"]
    first = run_script(GRPO, *line, root=workspace)
    assert "there is nothing to choose from" in first.stderr  # an untrained model writes no plan
    file = workspace / "output" / "sampled" / "sampling" / "responses.jsonl"
    whole = {response.model_dump_json() for response in read_store(file, Prediction)}
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    run_script(GRPO, *line, root=workspace)
    assert {response.model_dump_json() for response in read_store(file, Prediction)} == whole


def test_an_adapter_to_start_from_is_asked(workspace: Path) -> None:
    adapter = train(workspace, "to_sample", learning_rate=0.05, max_steps=3, save_steps=3, **LORA)
    line = [*TINY.split(), "--reward_weights", "{form: 1.0}", "--num_generations", "2"]
    lora = "--finetuning lora --lora_r 4 --lora_alpha 8 --resume_from_lora".split()
    said = []
    for name, more in {"base": [], "adapter": [*lora, str(adapter)]}.items():
        done = run_script(GRPO, *line, "--output_dir", f"output/of_{name}", *more, root=workspace)
        assert "there is nothing to choose from" in done.stderr
        found = read_store(workspace / "output" / f"of_{name}" / "sampling" / "responses.jsonl", Prediction)
        said.append({(one.example, one.repeat): one.text for one in found})
    assert said[0].keys() == said[1].keys()
    assert said[0] != said[1]


def test_several_ranks_are_refused(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost"}.items():
        monkeypatch.setenv(name, value)
    done = run_script(GRPO, *TINY.split(), "--output_dir", "output/ranks", root=workspace)
    assert done.returncode == 2
    assert "--method rft: one process samples, not 2; start it without torchrun" in done.stderr.splitlines()[-1]


def test_an_image_term_is_for_grpo_alone(workspace: Path) -> None:
    line = [*TINY.split(), "--image_share", "0.5", "--reward_weights", "{grounded: 1.0, image: 1.0}"]
    done = run_script(GRPO, *line, root=workspace)
    assert done.returncode == 2
    assert "GRPO has it" in done.stderr
