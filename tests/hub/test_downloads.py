"""Downloads, with the hub's real client against a hub on this machine that fails as it is told."""

import hashlib
import random
import resource
import shutil
import signal
from pathlib import Path

import pytest
from downloading import DATA, QUICK, SIZES, get, on_disk, online, stored
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers.hub import HubServer
from servers.hub_store import UNAVAILABLE, WHOLE, WRONG, Fault, Stored, by_path, cut, limited

from leap.errors import LeapError
from leap.hub.client import Hub
from leap.hub.download import download, everything
from leap.hub.notes import hub_sha256
from leap.hub.resume_download import RetryPolicy
from leap.records.locks import FolderLock

__all__ = ["online"]  # a fixture that every test here uses


def test_every_file_arrives_once_and_a_second_run_fetches_nothing(tmp_path: Path) -> None:
    repository = stored()
    with HubServer([repository]) as hub:
        get(hub, tmp_path / "data")
        assert on_disk(tmp_path / "data") == repository.files
        assert hub.sent == {path: size for path, size in SIZES.items() if size}
        hub.reset()
        get(hub, tmp_path / "data")
        assert not hub.sent


def test_the_hubs_own_command_fetches_none_of_it_again(tmp_path: Path) -> None:
    from huggingface_hub import snapshot_download

    with HubServer([stored()]) as hub:
        get(hub, tmp_path)
        hub.reset()
        snapshot_download(
            "someone/data", repo_type="dataset", local_dir=tmp_path, endpoint=hub.url, cache_dir=tmp_path / "hf"
        )
        assert not hub.sent
        assert not hub.attempts.keys() & {("file", path) for path in SIZES}


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


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        download(Hub(hub.url), DATA, tmp_path, everything, RetryPolicy(1, 0.01, 0.02))
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


def test_a_dry_run_shows_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with HubServer([stored()]) as hub:
        download(Hub(hub.url), DATA, tmp_path / "data", everything, QUICK, dry_run=True)
        assert not hub.sent
    assert "to fetch: 5 files, 371.0 kB" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_folder_in_a_files_place_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    with HubServer([stored()]) as hub, pytest.raises(LeapError, match=r"README.md: a folder lies where"):
        get(hub, tmp_path)


def test_a_full_disk_is_reported_in_a_line_and_loses_nothing(tmp_path: Path) -> None:
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
    with HubServer([stored()]) as hub, FolderLock(tmp_path / ".download-someone--data"):
        with pytest.raises(LeapError, match=r"another process writes here"):
            get(hub, tmp_path)
        assert not hub.sent


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


def test_what_was_downloaded_is_known_by_the_hubs_hash(tmp_path: Path) -> None:
    """First frames compare an archive with it."""
    repository = stored()
    with HubServer([repository]) as hub:
        get(hub, tmp_path)
    expected = hashlib.sha256(repository.files["big.tar.gz"]).hexdigest()
    assert hub_sha256(tmp_path / "big.tar.gz") == expected
    assert hub_sha256(tmp_path / "a" / "one.json") is None  # too small for the hub to name one
