"""Downloads, with the hub's real client against a hub on this machine that fails as it is told."""

import hashlib
import random
import resource
import shutil
import signal
import socket
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import run_script
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.hub import UNAVAILABLE, WHOLE, WRONG, Fault, HubServer, Stored, by_path, cut, limited

from leap.data.downloads import download, everything, named, numbered, tell
from leap.data.fetch import Manners
from leap.data.hub import Hub, find_hub
from leap.data.hub_files import Repository
from leap.errors import LeapError, UsageError
from leap.vlabench.dataset import dimension_of

QUICK = Manners(max_workers=3, initial_sleep=0.01, max_sleep=0.02, max_tries=5)
DATA = Repository("someone/data", "dataset")
SIZES = {"README.md": 40, "empty.txt": 0, "a/one.json": 999, "a/b/two words.png": 70_000, "big.tar.gz": 300_000}


@pytest.fixture(autouse=True)
def _online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs offline; these tests talk to this machine."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def stored(sizes: Mapping[str, int] = SIZES, says: Mapping[str, int] | None = None) -> Stored:
    """A repository of files of these sizes; its listing `says` others of some."""
    draw = random.Random(1)
    return Stored("someone/data", "dataset", {path: draw.randbytes(size) for path, size in sizes.items()}, says or {})


def get(hub: HubServer, folder: Path, manners: Manners = QUICK, wanted: Repository = DATA) -> None:
    download(Hub(hub.url), wanted, folder, everything, manners)


def on_disk(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_arrives_once_and_a_second_run_fetches_nothing(tmp_path: Path) -> None:
    repository = stored()
    with HubServer([repository]) as hub:
        get(hub, tmp_path / "data")
        assert on_disk(tmp_path / "data") == repository.files
        assert hub.sent == {path: size for path, size in SIZES.items() if size}
        hub.reset()
        get(hub, tmp_path / "data")
        assert not hub.sent


def test_only_what_is_missing_or_damaged_is_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository, folder = stored(), tmp_path / "data"
    with HubServer([repository]) as hub:
        get(hub, folder)
        hub.reset()
        (folder / "README.md").unlink()
        damaged = bytearray((folder / "big.tar.gz").read_bytes())
        damaged[1000] ^= 1
        (folder / "big.tar.gz").write_bytes(damaged)
        (folder / "a/one.json").write_bytes(b"short")
        (folder / "mine.txt").write_text("kept")
        get(hub, folder)
    assert set(hub.sent) == {"README.md", "big.tar.gz", "a/one.json"}
    assert on_disk(folder) == repository.files | {"mine.txt": b"kept"}
    assert "to be replaced: a/one.json, big.tar.gz" in capsys.readouterr().err


def test_a_listing_of_many_pages_is_read_to_its_end(tmp_path: Path) -> None:
    """Also where a mirror's links lead to the hub itself."""
    repository = stored({f"{number}.txt": number for number in range(30)})
    with HubServer([repository], upstream="https://huggingface.co") as hub:
        get(hub, tmp_path / "data")
    assert on_disk(tmp_path / "data") == repository.files


PASSING = st.sampled_from(
    [
        UNAVAILABLE,
        limited({}),
        limited({"Retry-After": "0"}),
        limited({"ratelimit": '"api";r=0;t=0'}),
        Fault("500", 500),
    ]
    + [cut(after) for after in (0, 1, 39, 500, 65_536, 69_999, 200_000)]
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.fixed_dictionaries({path: st.lists(PASSING, max_size=4) for path in [*SIZES, "list"]}),
    wrong=st.sets(st.sampled_from(sorted(set(SIZES) - {"empty.txt"}))),
)
def test_whatever_fails_on_the_way_every_file_arrives(
    tmp_path: Path, faults: dict[str, list[Fault]], wrong: set[str]
) -> None:
    """And no byte comes twice, but those of files that came wrong."""
    repository, folder = stored(), tmp_path / "data"
    shutil.rmtree(folder, ignore_errors=True)
    plan = {path: [WRONG] * (path in wrong) + mine for path, mine in faults.items()}
    with HubServer([repository], by_path(plan)) as hub:
        get(hub, folder)
    assert on_disk(folder) == repository.files
    for path, size in SIZES.items():
        assert hub.sent[path] == size * (1 + (path in wrong))


def test_a_server_without_ranges_is_read_again_but_not_believed_twice(tmp_path: Path) -> None:
    repository = stored()
    with HubServer([repository], by_path({"big.tar.gz": [cut(1000), WHOLE]})) as hub:
        get(hub, tmp_path / "data")
    assert on_disk(tmp_path / "data") == repository.files
    assert hub.sent["big.tar.gz"] == 301_000


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "1"},
        {"ratelimit": '"resolvers";r=0;t=1', "ratelimit-policy": '"fixed";"resolvers";q=3;w=9'},
    ],
)
def test_the_time_that_the_hub_asks_for_is_kept_by_all(tmp_path: Path, headers: dict[str, str]) -> None:
    repository = stored({f"{number}.txt": 10 for number in range(4)})
    with HubServer([repository], by_path({"0.txt": [limited(headers)]})) as hub:
        download(Hub(hub.url), DATA, tmp_path, everything, Manners(1, 0.01, 0.02))
    arrived = [seen.arrived for seen in hub.seen if seen.what == "file"]
    assert arrived[1] - arrived[0] >= 1
    assert on_disk(tmp_path) == repository.files


def test_a_wait_of_hours_and_endless_failures_end_the_run(tmp_path: Path) -> None:
    with HubServer([stored()], lambda seen: limited({"Retry-After": "86400"})) as hub:
        with pytest.raises(LeapError, match=r"86400 s of patience; the same command"):
            get(hub, tmp_path / "data")
        hub.reset(lambda seen: UNAVAILABLE if seen.what == "file" else None)
        with pytest.raises(LeapError, match=r"answered 503 .*, 5 times in a row"):
            get(hub, tmp_path / "data")
        assert max(hub.attempts.values()) == 5
    assert on_disk(tmp_path / "data").keys() <= {"empty.txt"} | {
        str(path.relative_to(tmp_path / "data")) for path in tmp_path.rglob("*.part")
    }


def test_a_file_that_is_not_what_the_hub_says_is_named_and_left_out(tmp_path: Path) -> None:
    repository, folder = stored(), tmp_path / "data"
    with HubServer([repository], by_path({"big.tar.gz": [WRONG] * 9, "README.md": [WRONG] * 9})) as hub:
        with pytest.raises(LeapError, match=r"left out: README.md, big.tar.gz; the same command"):
            get(hub, folder)
        assert on_disk(folder) == {path: repository.files[path] for path in set(SIZES) - {"big.tar.gz", "README.md"}}
        assert hub.sent["big.tar.gz"] == 2 * SIZES["big.tar.gz"]
        hub.reset()
        get(hub, folder)
        assert set(hub.sent) == {"big.tar.gz", "README.md"}
    assert on_disk(folder) == repository.files


def test_what_a_cut_run_left_is_continued_and_what_is_of_another_commit_removed(tmp_path: Path) -> None:
    repository, folder = stored(), tmp_path / "data"
    stop = by_path({"big.tar.gz": [cut(100_000), *[UNAVAILABLE] * 9]})
    with HubServer([repository], stop) as hub:
        with pytest.raises(LeapError, match=r"503"):
            get(hub, folder)
        (parts,) = folder.glob(".download-*")
        (parts / "0123-4567.part").write_bytes(b"old")
        hub.reset()
        get(hub, folder)
        assert hub.sent["big.tar.gz"] == SIZES["big.tar.gz"] - 100_000
    assert on_disk(folder) == repository.files


def test_a_disk_that_is_too_small_is_found_before_anything_is_fetched(tmp_path: Path) -> None:
    with HubServer([stored(says={"big.tar.gz": 10**18})]) as hub:
        with pytest.raises(LeapError, match=r"1.0 EB are still to come, and .* of the disk are free"):
            get(hub, tmp_path / "data")
        assert not hub.sent


def test_a_dry_run_tells_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HubServer([stored()]) as hub:
        download(Hub(hub.url), DATA, tmp_path / "data", everything, QUICK, dry_run=True)
        assert not hub.sent
    assert "to fetch: 5 files, 371.0 kB" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ((403, "GatedRepo"), "accept its terms: do so at https://huggingface.co/datasets/someone/data"),
        ((401, "RepoNotFound"), "has no dataset someone/data, or it is private"),
        ((401, ""), "the token is wrong"),
        ((410, ""), "answered 410"),
    ],
)
def test_what_the_user_must_do_is_said_at_once(tmp_path: Path, refuses: tuple[int, str], words: str) -> None:
    with HubServer([stored()]) as hub:
        hub.stored["dataset", "someone/data"].refuses = refuses
        with pytest.raises(LeapError, match=words):
            get(hub, tmp_path)
    assert not on_disk(tmp_path)


def test_names_that_the_hub_does_not_know(tmp_path: Path) -> None:
    with HubServer([stored()]) as hub:
        with pytest.raises(LeapError, match=r"has no dataset someone/date"):
            get(hub, tmp_path, wanted=Repository("someone/date", "dataset"))
        with pytest.raises(LeapError, match=r"has no revision 'v9'"):
            get(hub, tmp_path, wanted=Repository("someone/data", "dataset", "v9"))
        with pytest.raises(UsageError, match=r"OWNER/NAME"):
            get(hub, tmp_path, wanted=Repository("a/b/c", "dataset"))
        get(hub, tmp_path, wanted=Repository("someone/data", "dataset", hub.stored["dataset", "someone/data"].commit))
    assert len(on_disk(tmp_path)) == len(SIZES)


@pytest.mark.parametrize("path", ["../out.txt", "/etc/out.txt", "a/../../out.txt", "a\\..\\out.txt"])
def test_no_file_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    with (
        HubServer([stored({path: 10, "good.txt": 10})]) as hub,
        pytest.raises(LeapError, match=r"leads out of the folder"),
    ):
        get(hub, tmp_path / "data")
    assert not on_disk(tmp_path)


def test_the_token_goes_to_the_hub_and_no_further(tmp_path: Path) -> None:
    with HubServer([stored()]) as hub:
        get(hub, tmp_path / "data")
        tokens = {(seen.what, seen.path): seen.token for seen in hub.seen}
    assert tokens["file", "README.md"] == tokens["other", "big.tar.gz"] == tokens["list", "datasets/someone/data"]
    assert tokens["file", "README.md"] == "Bearer hf_test"
    assert tokens["file", "big.tar.gz"] is None  # the storage is another host


def test_a_folder_in_a_files_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    with HubServer([stored()]) as hub, pytest.raises(LeapError, match=r"README.md: a folder lies where"):
        get(hub, tmp_path)


def test_a_full_disk_is_told_in_a_line_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for a small disk."""
    repository = stored()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with HubServer([repository]) as hub:
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
        try:
            with pytest.raises(OSError, match="File too large") as failed:
                get(hub, tmp_path / "data")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
        assert failed.value.filename == str(tmp_path / "data")
        get(hub, tmp_path / "data")
    assert on_disk(tmp_path / "data") == repository.files


def test_two_downloads_do_not_meet_in_one_folder(tmp_path: Path) -> None:
    from leap.records.files import FolderLock

    with HubServer([stored()]) as hub, FolderLock(tmp_path / ".download-someone--data"):
        with pytest.raises(LeapError, match=r"another process writes here"):
            get(hub, tmp_path)
        assert not hub.sent


def test_the_mirror_is_asked_where_the_hub_is_silent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with HubServer([stored()]) as mirror, socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert find_hub(tell, hub=mirror.url, mirror=dead).endpoint == mirror.url
        found = find_hub(tell, hub=dead, mirror=mirror.url, patience=0.2)
        assert f"{dead} does not answer within 0.2 s; using {mirror.url}" in capsys.readouterr().err
        download(found, DATA, tmp_path, everything, QUICK)
        assert {seen.token for seen in mirror.seen} == {None}
        with pytest.raises(LeapError, match=r"neither .* nor .* answers"):
            find_hub(tell, hub=dead, mirror=dead, patience=0.1)


def test_the_users_choice_of_a_hub_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer([]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
        assert find_hub(tell).endpoint == hub.url
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LeapError, match=r"HF_ENDPOINT=http://127.0.0.1:9 does not answer"):
        find_hub(tell)
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    with pytest.raises(UsageError, match=r"HF_ENDPOINT=hf-mirror.com"):
        find_hub(tell)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LeapError, match=r"HF_HUB_OFFLINE .* unset it"):
        find_hub(tell)


def test_a_server_that_is_no_hub_is_told_from_one(tmp_path: Path) -> None:
    with HubServer([stored()]) as hub:
        hub.stored["dataset", "someone/data"].refuses = (200, "")  # {} for everything
        with pytest.raises(LeapError, match=r"as a hub does|tells no commit"):
            get(hub, tmp_path)


def test_xets_storage_is_read_on_from_where_a_file_was_cut(tmp_path: Path) -> None:
    """Xet's own client, its storage in a folder."""
    xet = pytest.importorskip("hf_xet")
    storage, content = f"local://{tmp_path / 'xet'}", random.Random(2).randbytes(3_000_000)
    (tmp_path / "source.bin").write_bytes(content)
    with xet.XetSession().new_upload_commit(endpoint=storage) as commit:
        sent = commit.start_upload_file(str(tmp_path / "source.bin"))
    repository = Stored("someone/data", "dataset", {"big.bin": content, "small.txt": b"x"})
    repository.xet, repository.xet_storage = {"big.bin": sent.result().xet_info.hash}, storage
    folder = tmp_path / "data"
    with HubServer([repository]) as hub:
        get(hub, folder)
        assert on_disk(folder) == repository.files
        assert set(hub.sent) == {"small.txt"}  # the hub itself gave none of the large one

        (folder / "big.bin").unlink()
        part = hashlib.sha256(b"big.bin").hexdigest()[:16] + "-" + hashlib.sha256(content).hexdigest()[:16] + ".part"
        (folder / ".download-someone--data").mkdir()
        (folder / ".download-someone--data" / part).write_bytes(content[:2_000_000])
        get(hub, folder)
        assert on_disk(folder) == repository.files
        assert "big.bin" not in hub.sent

        shutil.rmtree(tmp_path / "xet")
        (folder / "big.bin").unlink()
        get(hub, folder)  # where the storage fails, plain HTTP does
        assert on_disk(folder) == repository.files
        assert hub.sent["big.bin"] == len(content)


TREE = ["README.md", "CommenSence/add/example0/a.txt", "M&T/add/example1/a.txt", "Semantic/add/example2/a.txt"]


def test_a_choice_by_name(tmp_path: Path) -> None:
    dimensions = named("dimension", dimension_of, ["CommonSense", "M&T"])
    assert dimensions(TREE) == set(TREE[1:3])
    with pytest.raises(LeapError, match=r"no dimension Spatial; it has M&T, Semantic, CommonSense"):
        named("dimension", dimension_of, ["M&T", "Spatial"])(TREE)
    with pytest.raises(LeapError, match=r"no dimension M&T; it has none, only M&T.zip, README.md"):
        named("dimension", dimension_of, ["M&T"])(["README.md", "M&T.zip"])
    steps = numbered("checkpoint-([0-9]+)/")
    paths = [f"checkpoint-{step}/model.safetensors" for step in (200, 7000, 400)]
    assert named("checkpoint", steps, ["400"])(paths) == {paths[2]}
    assert named("checkpoint", steps, ["all"])([*paths, "README.md"]) == set(paths)
    with pytest.raises(LeapError, match=r"no checkpoint 70, all; it has none, only README.md"):
        named("checkpoint", steps, ["70", "all"])(["README.md"])


@pytest.mark.parametrize(
    ("script", "flags", "folder"),
    [
        ("download_model.py", "", "models/Qwen3-VL-2B-Instruct"),
        ("download_vlabench_with_retry.py", "--dimensions mt common_sense", "dataset/vlm_evaluation_v1.0"),
        ("download_leap_data.py", "", "data"),
        ("download_leap_data.py", "--checkpoints 400", "output"),
        ("download_leap_data.py", "--love-agibot --tasks 327", "data/love_agibot"),
    ],
)
def test_the_scripts_put_each_repository_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, flags: str, folder: str
) -> None:
    content = {
        ("model", "Qwen/Qwen3-VL-2B-Instruct"): (["config.json", "model.safetensors"], 2),
        ("dataset", "VLABench/vlm_evaluation_v1.0"): ([*TREE[1:3], TREE[0], TREE[3]], 2),
        ("dataset", "EvanSirius/leap-agibot-processed"): (["train_151230.jsonl"], 1),
        ("model", "EvanSirius/leap-ckpts"): (["checkpoint-400/config.json", "checkpoint-200/config.json"], 1),
        ("dataset", "EvanSirius/LOVE-Agibot-Beta"): (["image/task_327.tar.gz", "image/task_352.tar.gz"], 1),
    }
    stores = [
        Stored(name, kind, {path: path.encode() for path in [*paths, ".gitattributes"]})
        for (kind, name), (paths, _) in content.items()
    ]
    with HubServer(stores) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        done = run_script(f"scripts/download/{script}", *flags.split(), root=tmp_path)
    assert done.returncode == 0, done.stderr
    found = on_disk(tmp_path)
    assert all(path.startswith(f"{folder}/") for path in found)
    wanted = next(paths[:number] for paths, number in content.values() if f"{folder}/{paths[0]}" in found)
    assert found == {f"{folder}/{path}": path.encode() for path in wanted}


def test_archives_are_named_or_not_fetched(tmp_path: Path) -> None:
    for flags in ("--love-agibot", "--tasks 327"):
        refused = run_script("scripts/download/download_leap_data.py", *flags.split(), root=tmp_path)
        assert refused.returncode == 2
        assert "go together" in refused.stderr
