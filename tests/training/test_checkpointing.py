"""No work is lost: whole checkpoints, exact resuming, full disks, signals, losses that are no numbers."""

import errno
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, TINY_RECIPE, Finished, run_script, run_script_apart
from safetensors.torch import load_file, save_file
from torch import nn

from leap.errors import LeapError
from leap.models.checkpoints import ADAPTER, MARKER, UNKNOWN_FILES, find_checkpoints, is_resumable
from leap.models.loading import load_model
from leap.records.json_files import read_object, write_json
from leap.records.locks import FolderLock
from leap.training.checkpoint_folder import (
    explaining_disk_errors,
    finish_checkpoint,
    partial_folder,
    remove_newer,
    remove_oldest,
    start_checkpoint,
    strip_older,
    training_in,
)
from leap.training.optimizer_state import gather_optimizer_state, restore_optimizer_state
from leap.training.resume import find_resume, note_unknown_files
from leap.training.signals import Signals

FINETUNE = "scripts/training/run-finetuning.py"
# Log entries and checkpoints fall on different steps: the sum of losses in between must survive, too.
STEPS = (
    f"--recipe {TINY_RECIPE} --max_steps 7 --save_steps 2 --warmup_steps 0 --logging_steps 3 --learning_rate 1e-3 "
    "--per_device_train_batch_size 4 --image_tokens_min 4 --image_tokens_max 9 --save_total_limit 3"
).split()


def train(workspace: Path, output: str | Path, *options: str) -> Finished:
    return run_script(FINETUNE, *STEPS, "--output_dir", str(output), *options, root=workspace)


def checkpoints(run: Path) -> list[str]:
    return [folder.name for folder in find_checkpoints(run)]


@pytest.fixture(scope="module")
def whole(workspace: Path) -> Path:
    """The folder of a run that nothing disturbed."""
    done = train(workspace, "output/undisturbed")
    assert done.returncode == 0, done.stderr
    return workspace / "output" / "undisturbed"


def assert_same_end(run: Path, other: Path) -> None:
    one, two = (load_file(find_checkpoints(folder)[-1] / "model.safetensors") for folder in (run, other))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert history(run) == history(other)


def history(run: Path) -> list[dict[str, Any]]:
    return read_object(find_checkpoints(run)[-1] / "trainer_state.json")["log_history"]


def scalars(logs: Path, run: str) -> list[tuple[int, float]]:
    """(step, loss) as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(logs / "tensorboard" / run))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars("train/loss")]


def test_older_checkpoints_are_stripped_to_bf16_weights(whole: Path) -> None:
    assert checkpoints(whole) == ["checkpoint-4", "checkpoint-6", "checkpoint-7"]  # of 2, 4, 6, 7 the newest three
    assert [is_resumable(folder) for folder in find_checkpoints(whole)] == [False, True, True]
    stripped, full = whole / "checkpoint-4", whole / "checkpoint-6"
    assert {path.name for path in full.iterdir()} - {path.name for path in stripped.iterdir()} == {
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "loss_since_log.json",
    }  # fmt: skip
    assert {value.dtype for value in load_file(stripped / "model.safetensors").values()} == {torch.bfloat16}
    assert read_object(stripped / "config.json")["dtype"] == "bfloat16"
    assert read_object(stripped / MARKER)["weights"] == "bfloat16"
    assert load_model(stripped, "float32").dtype == torch.float32
    assert load_model(stripped, "bfloat16").dtype == torch.bfloat16


def made(run: Path, step: int, **marker: Any) -> Path:
    """A small checkpoint with real files."""
    place = run / f"checkpoint-{step}"
    start_checkpoint(place, 0)
    save_file({"a": torch.randn(4), "b": torch.arange(3)}, partial_folder(place) / "model.safetensors")
    write_json(partial_folder(place) / "config.json", {"dtype": "float32", "text_config": {"dtype": "float32"}})
    torch.save({}, partial_folder(place) / "optimizer.pt")
    finish_checkpoint(place, {"step": step, "resumable": True, "weights": "float32", **marker})
    return place


@pytest.mark.parametrize("mask", [0o002, 0o022, 0o027])
def test_files_have_the_mode_that_the_umask_gives_any_file(tmp_path: Path, mask: int) -> None:
    """Weights too, which safetensors writes for their owner alone: a group's checkpoint is read by the group."""
    before = os.umask(mask)
    try:
        for step in (1, 2, 3):
            made(tmp_path, step)
        strip_older(tmp_path)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}


def test_what_waits_to_be_sent_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *_ = [made(tmp_path, step) for step in (1, 2, 3, 4)]
    monkeypatch.setattr("leap.training.checkpoint_folder.BEING_SENT", {first})
    for _ in range(2):
        remove_oldest(tmp_path, keep=2)
        strip_older(tmp_path)
    assert checkpoints(tmp_path) == ["checkpoint-1", "checkpoint-3", "checkpoint-4"]
    assert is_resumable(first)
    monkeypatch.undo()
    remove_oldest(tmp_path, keep=2)
    assert checkpoints(tmp_path) == ["checkpoint-3", "checkpoint-4"]


def test_a_kill_while_stripping_loses_nothing(tmp_path: Path) -> None:
    """Any prefix of what stripping does leaves a checkpoint that loads, and the next call completes it."""
    for step in (1, 2, 3):
        made(tmp_path, step)
    weights = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    marker = tmp_path / "checkpoint-1" / MARKER
    write_json(marker, {**read_object(marker), "resumable": False})  # where a kill has stopped it
    (tmp_path / "checkpoint-1" / ".model.safetensors.partial").write_bytes(b"half")
    strip_older(tmp_path)
    stripped = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
    assert torch.equal(stripped["a"], weights["a"].bfloat16())
    assert torch.equal(stripped["b"], weights["b"])
    assert read_object(tmp_path / "checkpoint-1" / "config.json")["text_config"]["dtype"] == "bfloat16"
    assert not list(tmp_path.glob("checkpoint-1/.*"))
    assert all((tmp_path / f"checkpoint-{step}" / "optimizer.pt").is_file() for step in (2, 3))


def test_the_only_good_checkpoint_is_never_removed(tmp_path: Path) -> None:
    made(tmp_path, 1)
    (tmp_path / "checkpoint-2").mkdir()  # torn: it counts for nothing
    remove_oldest(tmp_path, keep=1)
    assert is_resumable(tmp_path / "checkpoint-1")
    made(tmp_path, 2)  # in the torn one's place
    remove_oldest(tmp_path, keep=1)
    assert checkpoints(tmp_path) == ["checkpoint-2"]
    made(tmp_path, 3)
    remove_oldest(tmp_path, keep=1, best=str(tmp_path / "checkpoint-2"))
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-3"]
    remove_newer(tmp_path, 2)  # which another node has not
    assert checkpoints(tmp_path) == ["checkpoint-2"]


def test_of_a_checkpoint_that_was_moved_away_only_the_link_is_removed(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        made(tmp_path / "run", step)
    first, moved = tmp_path / "run" / "checkpoint-1", tmp_path / "other_disk"
    first.rename(moved)
    first.symlink_to(moved)
    remove_oldest(tmp_path / "run", keep=2)
    assert checkpoints(tmp_path / "run") == ["checkpoint-2", "checkpoint-3"]
    assert is_resumable(moved)
    partial_folder(first).symlink_to(tmp_path / "nowhere")  # what a kill might have left
    with training_in(tmp_path / "run"):
        assert not partial_folder(first).is_symlink()


def test_a_stripped_checkpoint_is_no_point_to_resume_from(tmp_path: Path) -> None:
    identity = {"base_model": "m", "data": "d", "recipe": {}}
    made(tmp_path, 1, **identity, resumable=False)
    with pytest.raises(LeapError, match=r"checkpoint-1: training cannot go on from it.*--model_name_or_path"):
        find_resume(tmp_path, identity)


@pytest.mark.parametrize(("world_size", "accumulated", "fits"), [(1, 4, True), (4, 1, True), (2, 1, False)])
def test_samples_of_a_step_count_however_they_are_divided(
    tmp_path: Path, world_size: int, accumulated: int, fits: bool
) -> None:
    recipe = {"learning_rate": 1e-3, "per_device_train_batch_size": 4}
    identity = {"base_model": "m", "data": "d"}
    place = made(tmp_path, 1, **identity, recipe={**recipe, "gradient_accumulation_steps": 2, "processes": 2})
    now = {**identity, "recipe": {**recipe, "gradient_accumulation_steps": accumulated, "processes": world_size}}
    if fits:
        assert find_resume(tmp_path, now) == place
    else:
        with pytest.raises(LeapError, match=r"samples of an optimiser step \(16 there, 8 now\)"):
            find_resume(tmp_path, now)


def test_a_run_goes_on_with_the_base_that_it_began_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its small files too. A run of an older LEAP, which did not keep their hashes, goes on and says so."""
    identity = {
        "base_model": "m",
        "data": "d",
        "recipe": {},
        "base_files": {"chat_template.jinja": "1", "config.json": "2"},
    }
    place = made(tmp_path, 1, **identity)
    note_unknown_files(find_resume(tmp_path, identity))
    assert capsys.readouterr().out == ""
    for files, named in (
        ({"config.json": "2"}, "chat_template"),
        ({**identity["base_files"], "vocab.json": "3"}, "vocab"),
    ):
        with pytest.raises(LeapError, match=rf"{named}\.\w+ of the base model differ"):
            find_resume(tmp_path, {**identity, "base_files": files})
    made(tmp_path, 2, base_model="m", data="d", recipe={})
    newest = find_resume(tmp_path, identity)
    assert newest == place.with_name("checkpoint-2")
    note_unknown_files(newest)
    assert capsys.readouterr().out == f"{newest}: {UNKNOWN_FILES}\n"


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        torch.manual_seed(seed)
        optimizer.zero_grad()
        model[0](torch.randn(4, 3)).square().sum().backward()  # the second layer has no gradient
        optimizer.step()


@pytest.mark.parametrize("regrouped", [False, True])
def test_optimiser_state_goes_by_name(regrouped: bool, tmp_path: Path) -> None:
    """The groups may be others at the next start, and a parameter without a gradient so far has no state."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    optimizer = torch.optim.AdamW([{"params": [*model.parameters()]}], lr=0.01, weight_decay=0.1)
    steps(model, optimizer, range(3))
    torch.save(gather_optimizer_state(model, optimizer), tmp_path / "state.pt")
    resumed = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    resumed.load_state_dict(model.state_dict())
    groups = [{"params": [one]} for one in reversed([*resumed.parameters()])] if regrouped else resumed.parameters()
    other = torch.optim.AdamW(groups, lr=0.5)
    restore_optimizer_state(resumed, other, torch.load(tmp_path / "state.pt", weights_only=True))
    assert resumed[1].weight not in other.state
    for one, two in ((model, optimizer), (resumed, other)):
        steps(one, two, range(3, 6))
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), resumed.parameters(), strict=True))


def test_state_of_another_model_is_refused() -> None:
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    steps(nn.Sequential(model), optimizer, range(0))
    saved = gather_optimizer_state(model, optimizer)
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(LeapError, match=r"nothing for 0\.weight"):
        restore_optimizer_state(other, torch.optim.AdamW(other.parameters()), saved)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 70 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)  # an error's traceback may hold a file


@pytest.mark.slow
def test_a_full_disk_ends_with_the_last_checkpoint_intact(workspace: Path, small_disk: Path, whole: Path) -> None:
    """A checkpoint has 22 MB, and 34 MB are asked for beside it: the second one finds too little."""
    full = train(workspace, small_disk / "run")
    assert full.returncode == 1
    assert f"{small_disk / 'run'}: the disk is too full: checkpoint-4 needs" in full.stderr
    assert "checkpoint-2 is whole" in full.stderr
    assert len([line for line in full.stderr.splitlines() if "error" in line]) == 1
    assert checkpoints(small_disk / "run") == ["checkpoint-2"]
    assert not list((small_disk / "run").glob(".checkpoint*"))
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    again = train(workspace, small_disk / "run")
    assert again.returncode == 0, again.stderr
    assert_same_end(small_disk / "run", whole)


WRITERS: dict[str, Callable[[Path], Any]] = {
    "torch": lambda folder: torch.save({str(n): torch.zeros(1 << 20) for n in range(40)}, folder / "optimizer.pt"),
    "safetensors": lambda folder: save_file({"a": torch.zeros(40 << 20)}, folder / "model.safetensors"),
    "json": lambda folder: (folder / "trainer_state.json").write_bytes(b"0" * (160 << 20)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_a_disk_that_fills_while_writing(small_disk: Path, writer: str) -> None:
    before = made(small_disk, 1)
    place = small_disk / "checkpoint-2"
    start_checkpoint(place, 0)
    with (
        pytest.raises(LeapError, match=rf"checkpoint-2 needs 0.2 GB and .* is free; {before.name} is whole"),
        explaining_disk_errors(place, 160_000_000),
    ):
        WRITERS[writer](partial_folder(place))
    assert not partial_folder(place).exists()
    assert checkpoints(small_disk) == [before.name]


def test_a_file_size_limit_is_reported_too(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint-2"
    start_checkpoint(place, 0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(LeapError, match="a file may not be so large"), explaining_disk_errors(place, 0):
            save_file({"a": torch.zeros(1 << 20)}, partial_folder(place) / "model.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_other_errors_are_not_the_disks(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="denied"), explaining_disk_errors(tmp_path / "checkpoint-1", 0):
        raise OSError(errno.EACCES, "denied")
    with pytest.raises(RuntimeError, match="out of memory"), explaining_disk_errors(tmp_path / "checkpoint-1", 0):
        raise RuntimeError("out of memory")


def test_a_folder_is_one_runs(workspace: Path) -> None:
    run = workspace / "output" / "busy"
    with FolderLock(run):
        refused = train(workspace, run)
    assert refused.returncode == 1
    assert f"{run}: another process writes here (process {os.getpid()}" in refused.stderr


def test_what_a_kill_left_is_removed(tmp_path: Path) -> None:
    made(tmp_path, 1)
    leftover = partial_folder(tmp_path / "checkpoint-2")
    leftover.mkdir()
    (leftover / "model.safetensors").write_bytes(b"half")
    assert checkpoints(tmp_path) == ["checkpoint-1"]
    with training_in(tmp_path):
        assert not leftover.exists()
    assert checkpoints(tmp_path) == ["checkpoint-1"]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_the_same_command_goes_on(workspace: Path, whole: Path, number: signal.Signals) -> None:
    run = workspace / "output" / f"stopped-{number.name}"

    def stop() -> None:
        while not (run / "checkpoint-4" / MARKER).is_file():
            time.sleep(0.001)
        os.kill(os.getpid(), number)

    watcher = threading.Thread(target=stop, daemon=True)
    watcher.start()
    stopped = train(workspace, run)
    assert stopped.returncode == 128 + number
    assert "run the same command to go on" in stopped.stderr
    assert checkpoints(run)[-1] in ("checkpoint-5", "checkpoint-6")  # of the step that it fell in
    assert is_resumable(find_checkpoints(run)[-1])
    resumed = train(workspace, run)
    assert resumed.returncode == 0, resumed.stderr
    assert_same_end(run, whole)
    assert scalars(workspace / "logs", run.name) == scalars(workspace / "logs", whole.name)
    assert not isinstance(getattr(signal.getsignal(number), "__self__", None), Signals)  # the loop's own is gone


@pytest.fixture
def overflowing(workspace: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A base model whose (finite) vision weights overflow, and a file with one row with an image, the ninth."""
    base = workspace / "models" / "tiny"
    model = tmp_path / "model"
    model.mkdir()
    for file in base.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    weights = load_file(base / "model.safetensors")
    name = next(name for name in weights if "patch_embed" in name and name.endswith("weight"))
    weights[name].fill_(3e38)
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    samples = [json.loads(line) for line in (workspace / "data" / "train_demo.jsonl").read_text().splitlines()[:24]]
    for number, sample in enumerate(samples, start=1):
        if number != 9:
            for message in sample["messages"]:
                message["content"] = [part for part in message["content"] if part["type"] == "text"]
    file = tmp_path / "samples.jsonl"
    file.write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    return model, file


BEST = "--save_steps 100 --val_file data/test_demo.jsonl --max_eval_samples 2 --eval_steps 2"


@pytest.mark.parametrize("saving", ["--save_steps 1", f"{BEST} --early_stopping_patience 1"])
def test_a_loss_that_is_no_number_names_its_samples_and_is_not_saved(
    workspace: Path, overflowing: tuple[Path, Path], tmp_path: Path, saving: str
) -> None:
    """Nothing is logged: the look before each save, or evaluation after which one is saved, finds it."""
    model, samples = overflowing
    options = ["--model_name_or_path", str(model), "--train_file", str(samples), *saving.split()]
    options += ["--logging_steps", "100", "--max_steps", "12", "--per_device_train_batch_size", "2"]
    options += ["--gradient_accumulation_steps", "2", "--seed", "43"]
    run = tmp_path / "run"
    done = train(workspace, run, *options)
    assert done.returncode == 1, done.stdout
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error"))
    step = int(line.split("step ")[1].split(":")[0])
    assert ": the loss is nan on the samples " in line
    assert f"{samples}:9" in line
    assert line.count(f"{samples}:") == 2  # the batch's samples, not the step's four
    assert step > 1, "the seed puts the sample into the first step: choose another one"
    assert checkpoints(run)[-1:] == ([f"checkpoint-{step - 1}"] if saving == "--save_steps 1" else [])
    for folder in find_checkpoints(run):
        assert all(value.isfinite().all() for value in load_file(folder / "model.safetensors").values())


@pytest.mark.slow
def test_an_adapter_is_saved_and_resumed(workspace: Path) -> None:
    """The adapter alone is saved; steps in one go and with a new start between them end alike, dropout included."""
    lora = "--finetuning lora --lora_r 2 --lora_dropout 0.1 --lora_target_modules q_proj,v_proj".split()
    unbroken, broken = (workspace / "output" / name for name in ("adapter-unbroken", "adapter-broken"))
    for run in (unbroken, broken):
        if run == broken:
            shutil.copytree(unbroken / "checkpoint-6", run / "checkpoint-6")
            shutil.copy(unbroken / MARKER, run)
        done = run_script_apart(FINETUNE, *STEPS, *lora, "--output_dir", str(run), root=workspace)
        assert done.returncode == 0, done.stderr
        assert (run / "checkpoint-7" / ADAPTER).is_file()
        assert not (run / "checkpoint-7" / "model.safetensors").exists()
    one, two = (load_file(run / "checkpoint-7" / "adapter_model.safetensors") for run in (unbroken, broken))
    assert any(value.any() for name, value in one.items() if "lora_B" in name)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert history(unbroken) == history(broken)


def start(workspace: Path, output: str, *launcher: str, options: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    command = [sys.executable, *launcher, str(REPOSITORY / FINETUNE), *STEPS, "--output_dir", output, *options]
    environment = {**os.environ, "LEAP_ROOT": str(workspace), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(rank: subprocess.Popen[str], happened: Callable[[], bool]) -> bool:
    """Whether it happened before the process ended."""
    while rank.poll() is None:
        if happened():
            return True
        time.sleep(0.001)
    return False


def kill_somewhere(workspace: Path, run: Path, options: tuple[str, ...], moment: random.Random) -> str:
    """Start the run's command and kill it (SIGKILL) while it trains or while it saves; what was there then."""
    known = set(checkpoints(run))
    saving = moment.random() < 0.6

    def happened() -> bool:
        return bool(list(run.glob(".checkpoint-*.partial"))) if saving else bool(set(checkpoints(run)) - known)

    rank = start(workspace, str(run), options=options)
    with rank:
        wait_for(rank, happened)
        time.sleep(moment.uniform(0, 0.1 if saving else 0.5))
        rank.kill()
    assert rank.returncode == -signal.SIGKILL, "it ended before it could be killed"
    return f"{checkpoints(run)} {[path.name for path in run.glob('.checkpoint*')]}"


SAVED_OFTEN = ("--max_steps", "14", "--save_steps", "1")


@pytest.fixture(scope="module")
def saved_often(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run in a process of its own that nothing disturbed."""
    run = tmp_path_factory.mktemp("saved") / "often"
    done = run_script_apart(FINETUNE, *STEPS, "--output_dir", str(run), *SAVED_OFTEN, root=workspace)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_at_any_time_change_nothing(workspace: Path, tmp_path: Path, saved_often: Path, seed: int) -> None:
    run, moment = tmp_path / f"killed-{seed}", random.Random(seed)
    seen = [kill_somewhere(workspace, run, SAVED_OFTEN, moment) for _ in range(5)]
    print("\n".join(seen))
    again = run_script_apart(FINETUNE, *STEPS, "--output_dir", str(run), *SAVED_OFTEN, root=workspace)
    assert again.returncode == 0, again.stderr
    assert_same_end(run, saved_often)
    assert [is_resumable(folder) for folder in find_checkpoints(run)] == [False, True, True]
    assert not list(run.glob(".checkpoint*"))
    assert scalars(workspace / "logs", run.name) == scalars(workspace / "logs", saved_often.name)


TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")


@pytest.mark.slow
def test_a_checkpoint_goes_from_two_processes_to_one_and_back(workspace: Path, tmp_path: Path, whole: Path) -> None:
    """SIGTERM reaches one of two processes; both save after the same step."""
    run = tmp_path / "processes"
    halves = ("--per_device_train_batch_size", "2")
    with start(workspace, str(run), *TORCHRUN, options=halves) as rank:
        assert wait_for(rank, lambda: (run / "checkpoint-2" / MARKER).is_file())
        worker = int((run / ".lock").read_text().split()[1])
        os.kill(worker, signal.SIGTERM)
        output, _ = rank.communicate(timeout=120)
    assert rank.returncode != 0
    assert "run the same command to go on" in output
    (first,) = {int(line.split("after step ")[1].split(",")[0]) for line in output.splitlines() if "stopped by" in line}
    assert find_checkpoints(run)[-1].name == f"checkpoint-{first}"
    assert {path.name for path in find_checkpoints(run)[-1].glob("rng_state*")} == {
        "rng_state_0.pth",
        "rng_state_1.pth",
    }
    alone = train(workspace, run, "--save_steps", "1", "--max_steps", "7")
    assert alone.returncode == 0, alone.stderr
    assert history(run)[-1]["loss"] == pytest.approx(history(whole)[-1]["loss"], abs=2e-4)
    last = run / "checkpoint-7"
    assert_close(load_file(last / "model.safetensors"), load_file(whole / "checkpoint-7" / "model.safetensors"))
    last.rename(tmp_path / "alone")
    with start(workspace, str(run), *TORCHRUN, options=halves) as rank:
        output, _ = rank.communicate(timeout=120)
    assert rank.returncode == 0, output
    assert_close(load_file(last / "model.safetensors"), load_file(tmp_path / "alone" / "model.safetensors"))


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Sums over other batches round apart, and Adam's first steps make a rate of a gradient near zero."""
    far = [(one[name] - other[name]).abs().gt(1e-4).float().mean().item() for name in one]
    assert max(far) < 0.01, max(far)


@pytest.mark.slow
def test_optimiser_state_goes_from_shards_to_one_process_and_to_shards(tmp_path: Path) -> None:
    command = [
        sys.executable,
        *TORCHRUN,
        str(REPOSITORY / "tests" / "training" / "sharded_state.py"),
        str(tmp_path / "state.pt"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
