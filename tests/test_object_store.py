"""Data and results on a real S3 server of this machine, with the scripts that users call, in processes of their own."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import run_script_apart
from PIL import Image
from test_data_elsewhere import ASK, EVALUATE, FINETUNE, STEPS, files, losses

from leap.preparation.check.find_images import find_images
from leap.preparation.check.image_facts import FactStore
from leap.records.remote import as_path, cache_folder

pytestmark = pytest.mark.slow
s3fs = pytest.importorskip("s3fs", reason="pip install s3fs, which constraints.txt does not allow: see pyproject.toml")
server = pytest.importorskip("moto.server", reason="pip install moto[server], for an S3 server of this machine")
BUCKET, DATA = "lab", "s3://lab/data"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    running = server.ThreadedMotoServer("127.0.0.1", port=0)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture
def root(endpoint: str, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with the model alone; its data are in a bucket."""
    names = {"AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "a-secret-word", "AWS_ENDPOINT_URL": endpoint}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LEAP_CACHE", str(tmp_path / "cache"))
    system = store()
    if not system.exists(BUCKET):
        system.mkdir(BUCKET)
        system.put(f"{workspace / 'data'}/", f"{BUCKET}/data", recursive=True)
        system.put(f"{workspace / 'dataset'}/", f"{BUCKET}/dataset", recursive=True)
        (name,) = (path.name for path in (workspace / "dataset").iterdir())
        for folder in ("data/images/", f"dataset/{name}/", f"dataset/{name}/Spatial/"):  # as a console makes folders
            system.call_s3("put_object", Bucket=BUCKET, Key=folder, Body=b"")
    root = tmp_path / "empty"
    root.mkdir()
    (root / "models").symlink_to(workspace / "models")
    return root


def store() -> Any:
    """As it is now: with no listing of before."""
    return s3fs.S3FileSystem(skip_instance_cache=True)


def sent(place: str) -> dict[str, bytes]:
    system = store()
    return {name.removeprefix(f"{place}/"): system.cat_file(name) for name in system.find(place)}


def test_training_on_images_that_the_cache_does_not_hold(
    workspace: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of the data loader fetch what has gone meanwhile; the losses are those of local files."""
    here = run_script_apart(FINETUNE, *STEPS, "--output_dir", "output/beside", root=workspace)
    images = sum(path.stat().st_size for path in (workspace / "data" / "images").iterdir())
    text = (workspace / "data" / "train_demo.jsonl").stat().st_size
    monkeypatch.setenv("LEAP_CACHE_GB", str((text + images / 3) / 1e9))
    places = f"--train_file {DATA}/train_demo.jsonl --image_root {DATA} --upload s3://lab/runs".split()
    there = run_script_apart(FINETUNE, *STEPS, *places, "--dataloader_num_workers", "2", root=root)
    assert there.returncode == 0, there.stderr
    assert losses(there.stderr) == losses(here.stderr) != []
    assert "more than the cache holds" in there.stderr
    assert 0 < sum(path.stat().st_size for path in (cache_folder() / "s3").rglob("*.png")) < images
    assert sent("lab/runs/output") == {
        name: content for name, content in files(root / "output").items() if name.startswith("checkpoint-")
    }


def test_evaluation(workspace: Path, root: Path) -> None:
    (name,) = (workspace / "dataset").iterdir()
    places = f"--data_path s3://lab/dataset/{name.name} --upload s3://lab/results".split()
    done = run_script_apart(EVALUATE, *ASK, "--dimension", "Spatial", *places, root=root)
    assert done.returncode == 0, done.stderr
    assert sent("lab/results/Spatial") == files(root / "eva_results" / "Spatial")


def test_what_is_wrong_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*options: str) -> str:
        done = run_script_apart(FINETUNE, *STEPS, *options, root=root)
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert "a-secret-word" not in done.stderr
        return done.stderr

    train = ["--train_file", f"{DATA}/train_demo.jsonl"]
    assert "s3://nobodys/train.jsonl: there is no such file" in error("--train_file", "s3://nobodys/train.jsonl")
    assert "s3://nobodys/images: there is no such folder" in error(*train, "--image_root", "s3://nobodys/images")
    assert re.search(r"s3://nobodys/runs: there is no such .*bucket", error(*train, "--upload", "s3://nobodys/runs"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert "cannot be reached" in error(*train)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(root))
    assert "there are no credentials" in error(*train)


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (16, 16), (number % 256, number // 256, 0)).save(content, "PNG")
    return content.getvalue()


def test_images_are_checked_that_go_before_they_are_decoded(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By several processes, forked while others are fetched; a later look fetches nothing."""
    system = store()
    images = {f"{number:03}.png": png(number) for number in range(300)}
    system.pipe({f"lab/many/{name}": content for name, content in images.items()})
    monkeypatch.setenv("LEAP_CACHE_GB", str(40 * len(images["000.png"]) / 1e9))
    found = find_images(list(images), [as_path("s3://lab/many")])
    looked = FactStore(tmp_path).look(found.status)
    assert (len(looked.facts), looked.broken, looked.decoded) == (300, {}, 300)
    assert 0 < len(list((cache_folder() / "s3").rglob("*.png"))) <= 40
    before = {path.name for path in (cache_folder() / "s3").rglob("*.png")}
    assert FactStore(tmp_path).look(found.status).decoded == 0
    assert {path.name for path in (cache_folder() / "s3").rglob("*.png")} == before
