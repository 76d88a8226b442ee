"""Data at an address: files come whole, once, in the version that is there, into a cache that stays under its bound."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from conftest import PYTHONPATH
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry
from servers.hub import HubServer
from servers.hub_store import Stored

from leap.data.image import resolve_image
from leap.errors import LeapError, UsageError
from leap.records import remote
from leap.records.paths import find_data, find_path
from leap.records.remote import address, as_path, cache_folder, fetch_data, is_cached, is_there, open_file, present
from leap.records.upload import Upload


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryFileSystem]:
    """An empty store in memory, and an empty cache."""
    monkeypatch.setenv("LEAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_PAUSE", 0.0)
    for kept in (remote._listing, remote._system_of_process, remote._room):
        kept.cache_clear()
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def read(place: str) -> bytes:
    with open_file(as_path(place)) as file:
        return file.read()


def cached() -> dict[str, int]:
    """Every file in the cache, by its address."""
    return {address(path): path.stat().st_size for path in cache_folder().glob("[!.]*/**/*") if path.is_file()}


def asked(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Files that the store is asked for from now on."""
    found: list[str] = []
    get_file = MemoryFileSystem.get_file

    def noted(self: Any, rpath: str, *arguments: Any, **options: Any) -> None:
        found.append(rpath)
        get_file(self, rpath, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", noted)
    return found


def test_an_address_is_a_path_and_back(store: MemoryFileSystem) -> None:
    for place in ("s3://bucket/images/1 2.png", "hf://datasets/a/b@main/x.jsonl", "memory://b"):
        assert address(as_path(place)) == place
    assert as_path("file:///data/a.png") == Path("/data/a.png")
    assert as_path("data/a.png", Path("/root")) == Path("/root/data/a.png")
    assert address(Path("/data/a.png")) == "/data/a.png"


@pytest.mark.parametrize("place", ["s3://", "s3://bucket/../../etc/passwd", "s3://bucket//a"])
def test_an_address_leads_nowhere_else(place: str, store: MemoryFileSystem) -> None:
    with pytest.raises(LeapError, match="no address of a file or folder"):
        as_path(place)


@pytest.mark.parametrize("name", ["../../../../outside", "../other/a"])
def test_a_name_leads_nowhere_else(name: str, store: MemoryFileSystem, tmp_path: Path) -> None:
    """A sample's image, or an object's key: nothing is read or written outside."""
    store.pipe_file("/b/a", b"1")
    (tmp_path / "outside").write_text("another's")
    for use in (open_file, present, is_there):
        with pytest.raises(LeapError, match=r"no \.\. may stand in an address"):
            use(as_path("memory://b") / name)
    store.pipe_file("/b/x", b"1")
    store.store[f"/b/{name}"] = store.store.pop("/b/x")
    store.store[f"/b/{name}"].path = f"/b/{name}"
    with pytest.raises(LeapError, match="no address of a file or folder"):
        fetch_data(as_path("memory://b"))
    assert (tmp_path / "outside").read_text() == "another's"


@pytest.mark.parametrize("place", ["sftp://host/a", "zip://a::s3://b/c", "nowhere://b/a"])
def test_other_stores_are_refused(place: str, store: MemoryFileSystem) -> None:
    with pytest.raises(LeapError, match=r"://\S*: \w+:// is not read here; give s3://, gs://, hf:// or a path"):
        as_path(place)


@pytest.mark.parametrize("place", ["s3://me:a-secret-word@bucket/a", "sftp://me:a-secret-word@host/a"])
def test_an_address_holds_no_password(place: str, store: MemoryFileSystem) -> None:
    with pytest.raises(LeapError, match="an address may hold no user or password") as refused:
        as_path(place)
    assert "a-secret-word" not in str(refused.value)


def test_files_of_others_are_left_alone(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LEAP_CACHE may be a disk with the user's own files, which are no addresses, and are never removed."""
    monkeypatch.setenv("LEAP_CACHE_GB", "0.000001")
    mine = [tmp_path / "cache" / "s3" / "mine.png", tmp_path / "cache" / "mine.png"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(2000))
    assert [address(path) for path in mine] == [str(path) for path in mine]
    for number in range(4):
        store.pipe_file(f"/b/{number}", bytes(300))
        read(f"memory://b/{number}")
    assert [path.is_file() for path in mine] == [True, True]
    monkeypatch.setenv("LEAP_CACHE", str(tmp_path / "other"))
    (tmp_path / "other" / "remote").mkdir(parents=True)
    (tmp_path / "other" / "remote" / "mine.png").write_bytes(b"mine")
    for use in (lambda: read("memory://b/1"), lambda: address(tmp_path / "other" / "remote" / "mine.png")):
        with pytest.raises(LeapError, match=r"holds files that are not LEAP's; name another folder$"):
            use()


def test_only_data_may_be_elsewhere(store: MemoryFileSystem, tmp_path: Path) -> None:
    assert find_data("s3://b/data", tmp_path) == cache_folder() / "s3" / "b" / "data"
    assert find_data("file://data/a.png", tmp_path) == tmp_path / "data" / "a.png"
    with pytest.raises(UsageError, match="results go elsewhere with --upload"):
        find_path("s3://b/results", tmp_path)


def test_a_file_comes_once(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe_file("/b/a.png", b"first")
    came = asked(store, monkeypatch)
    assert [read("memory://b/a.png") for _ in range(3)] == [b"first"] * 3
    assert len(came) == 1
    assert not is_there(as_path("memory://b/none.png"))
    with pytest.raises(LeapError, match=r"^memory://b/none.png: there is no such file$"):
        read("memory://b/none.png")


def test_what_changes_there_comes_anew_and_what_goes_there_goes(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "deep/b", "c"):
        store.pipe_file(f"/data/{name}", b"one")
    fetch_data(as_path("memory://data"))
    came = asked(store, monkeypatch)
    store.pipe_file("/data/a", b"two")
    store.rm_file("/data/c")
    fetch_data(as_path("memory://data"))
    assert len(came) == 1
    assert read("memory://data/a") == b"two"
    assert cached() == {"memory://data/a": 3, "memory://data/deep/b": 3}
    store.rm_file("/data/deep/b")
    fetch_data(as_path("memory://data"))
    assert not as_path("memory://data/deep").exists(), "an example's folder would be an example"


def test_objects_that_stand_for_folders_are_passed_over(store: MemoryFileSystem) -> None:
    store.pipe_file("/data/images/1", b"one")
    for name in ("/data/", "/data/images/"):
        store.store[name] = store.store["/data/images/1"].__class__(store, name, b"")
    fetch_data(as_path("memory://data"))
    assert cached() == {"memory://data/images/1": 3}


def test_what_has_gone_is_fetched_by_whoever_reads_it(store: MemoryFileSystem) -> None:
    store.pipe_file("/data/a", b"one")
    fetch_data(as_path("memory://data"))
    as_path("memory://data/a").unlink()
    assert present(as_path("memory://data/a")).read_bytes() == b"one"
    assert not present(as_path("memory://data/none")).exists()


def test_images_cost_a_listing_of_their_folder_and_no_request_each(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked_for: list[str] = []
    for name in ("ls", "info"):
        real = getattr(MemoryFileSystem, name)

        def noted(self: Any, path: str, *given: Any, real: Any = real, **more: Any) -> Any:
            asked_for.append(path)
            return real(self, path, *given, **more)

        monkeypatch.setattr(MemoryFileSystem, name, noted)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"here")
        store.pipe_file(f"/b/there-{number}.png", b"there")
    asked_for.clear()
    roots = [tmp_path, as_path("memory://b")]
    found = [resolve_image(f"{kind}{number}.png", roots) for kind in ("", "there-") for number in range(3)]
    assert [is_cached(path) for path in found] == [False] * 3 + [True] * 3
    assert asked_for == ["memory://b"]
    remote.fetch_listed(found)
    assert cached() == {f"memory://b/there-{number}.png": 5 for number in range(3)}


def test_a_store_without_versions_is_refused(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else what changes there would be taken for what is here."""
    store.pipe_file("/data/a", b"one")
    info = MemoryFileSystem.info
    monkeypatch.setattr(MemoryFileSystem, "info", lambda *given, **more: {**info(*given, **more), "created": None})
    with pytest.raises(LeapError, match="its store does not say which version it is"):
        read("memory://data/a")


def test_the_least_recently_used_go(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_CACHE_GB", "0.000001")  # 1,000 bytes
    for number in range(4):
        store.pipe_file(f"/b/{number}", bytes(300))
    for number in (0, 1, 2):
        read(f"memory://b/{number}")
    read("memory://b/0")
    read("memory://b/3")
    assert cached().keys() == {"memory://b/0", "memory://b/2", "memory://b/3"}
    assert read("memory://b/1") == bytes(300)


def test_room_is_made_before_files_come(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAP_CACHE_GB", "0.000001")
    largest = 0
    get_file = MemoryFileSystem.get_file

    def noted(self: Any, rpath: str, lpath: str, *arguments: Any, **options: Any) -> None:
        nonlocal largest
        get_file(self, rpath, lpath, *arguments, **options)
        largest = max(
            largest, sum(path.stat().st_size for path in cache_folder().glob("memory/**/*") if path.is_file())
        )

    monkeypatch.setattr(MemoryFileSystem, "get_file", noted)
    places = [as_path(f"memory://b/{number}") for number in range(20)]
    for path in places:
        store.pipe_file(path.relative_to(cache_folder() / "memory").as_posix(), bytes(300))
    remote.fetch({path: remote.status(path) or (0, 0) for path in places})
    assert 600 <= largest <= 1000


def test_more_than_the_cache_holds_is_refused(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe_file("/b/large", bytes(3000))
    for bound, problem in (("0.000001", "too much for the cache; raise LEAP_CACHE_GB"), ("none", "LEAP_CACHE_GB=none")):
        monkeypatch.setenv("LEAP_CACHE_GB", bound)
        with pytest.raises(LeapError, match=problem):
            read("memory://b/large")
    for number in range(4):
        store.pipe_file(f"/folder/{number}", bytes(300))
    monkeypatch.setenv("LEAP_CACHE_GB", "0.000001")
    with pytest.raises(LeapError, match=r"^memory://folder: its 1.2 kB are needed together"):
        fetch_data(as_path("memory://folder"))
    assert cached() == {}


def test_what_breaks_off_leaves_nothing(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    store.pipe_file("/b/a", bytes(1000))

    def short(self: Any, rpath: str, lpath: str, *_: Any, **__: Any) -> None:
        Path(lpath).write_bytes(bytes(400))

    def broken(self: Any, rpath: str, lpath: str, *_: Any, **__: Any) -> None:
        short(self, rpath, lpath)
        raise ConnectionResetError("connection reset by peer")

    monkeypatch.setattr(remote, "_TRIES", 2)
    for get_file, problem in ((broken, "be reached .connection reset by peer"), (short, "400 bytes came of 1000")):
        monkeypatch.setattr(MemoryFileSystem, "get_file", get_file)
        with pytest.raises(LeapError, match=problem):
            read("memory://b/a")
        assert cached() == {}


def test_one_that_breaks_off_is_asked_again_and_the_others_stay(
    store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(8):
        store.pipe_file(f"/b/{number}", b"whole")
    get_file, broken = MemoryFileSystem.get_file, {"memory://b/3": 2, "memory://b/5": 99}

    def breaks(self: Any, rpath: str, lpath: str, *arguments: Any, **options: Any) -> None:
        if broken.get(rpath, 0):
            broken[rpath] -= 1
            raise ConnectionResetError("connection reset by peer")
        get_file(self, rpath, lpath, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "get_file", breaks)
    with pytest.raises(LeapError, match=r"^memory://b/5: it cannot be reached"):
        fetch_data(as_path("memory://b"))
    assert broken == {"memory://b/3": 0, "memory://b/5": 99 - remote._TRIES}
    assert cached().keys() == {f"memory://b/{number}" for number in range(8)} - {"memory://b/5"}


KILLED = """
import os, sys
from pathlib import Path
import fsspec
from fsspec.implementations.memory import MemoryFileSystem
from leap.records.remote import as_path, open_file
def half(self, rpath, lpath, *_, **__):
    Path(lpath).write_bytes(bytes(400))
    os.kill(os.getpid(), 9)
MemoryFileSystem.get_file = half
fsspec.filesystem("memory").pipe_file("/b/a", bytes(1000))
open_file(as_path("memory://b/a"))
"""


@pytest.mark.slow
def test_a_kill_leaves_no_half_file(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, "PYTHONPATH": PYTHONPATH}, check=False)
    assert killed.returncode == -9
    (left,) = cached()
    assert left.startswith("memory://b/.a.")
    os.utime(as_path(left), (0, 0))  # a young one may be another process's
    store.pipe_file("/b/a", b"whole")
    assert read("memory://b/a") == b"whole"
    remote._room.cache_clear()
    monkeypatch.setenv("LEAP_CACHE_GB", "0.0000006")  # 600 bytes: what nobody has used goes first
    store.pipe_file("/b/c", bytes(300))
    read("memory://b/c")
    assert cached().keys() == {"memory://b/a", "memory://b/c"}


SHARED = """
import sys
from pathlib import Path
from leap.records.remote import as_path, fetch
import fsspec
from leap.records import remote
system = fsspec.filesystem("memory")
for number in range(40):
    system.pipe_file(f"/b/{number}", bytes(1000))
    place = as_path(f"memory://b/{number}")
    info = system.info(f"/b/{number}") | {"created": 1}  # the same file in every process
    fetch({place: remote._status(info)})
    with remote.open_file(place) as file:
        assert len(file.read()) == 1000
"""


@pytest.mark.slow
def test_several_processes_share_one_bound(store: MemoryFileSystem) -> None:
    bound = {"LEAP_CACHE_GB": "0.00001", "PYTHONPATH": PYTHONPATH}  # 10,000 bytes
    running = [subprocess.Popen([sys.executable, "-c", SHARED], env={**os.environ, **bound}) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    sizes = cached()
    assert 0 < sum(sizes.values()) <= 12_000  # what the two others were just fetching may be over it
    assert set(sizes.values()) == {1000}


def test_what_is_missing_is_said_with_what_to_install(store: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(LeapError, match=r's3://b/a: Install s3fs to access S3; pip install -e "\.\[s3\]"$'):
        read("s3://b/a")


def test_a_folder_is_sent_whole_and_its_marker_last(store: MemoryFileSystem, tmp_path: Path) -> None:
    folder = tmp_path / "results" / "M&T" / "m"
    (folder / "deep").mkdir(parents=True)
    for name, text in (("a", "1"), ("deep/b", "2"), (".lock", "not sent"), ("manifest.json", '{"end": 1}')):
        (folder / name).write_text(text)
    upload = Upload(as_path("memory://out/"), tmp_path / "results", "manifest.json")
    upload.send(folder)
    sent = {name: store.cat_file(name) for name in store.find("/out/M&T")}
    assert sent == {"/out/M&T/m/a": b"1", "/out/M&T/m/deep/b": b"2", "/out/M&T/m/manifest.json": b'{"end": 1}'}
    assert list(store.store)[-1] == "/out/M&T/m/manifest.json"
    upload.refuse_failed()


def test_what_was_sent_is_not_sent_again_and_what_failed_is(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m").mkdir()
    for name, text in (("a", "1"), ("manifest.json", "{}")):
        (tmp_path / "m" / name).write_text(text)
    put_file, sent = MemoryFileSystem.put_file, list[str]()

    def noted(self: Any, lpath: str, rpath: str, *arguments: Any, **options: Any) -> None:
        sent.append(rpath)
        if len(sent) in (2, 3):  # as it is sent, and at the end once more
            raise PermissionError("AccessDenied")
        put_file(self, lpath, rpath, *arguments, **options)

    monkeypatch.setattr(MemoryFileSystem, "put_file", noted)
    upload = Upload(as_path("memory://out"), tmp_path, "manifest.json")
    for _ in range(2):
        upload.send(tmp_path / "m")
    assert len(sent) == 1
    (tmp_path / "m" / "manifest.json").write_text('{"end": 2}')  # more was answered since
    upload.send(tmp_path / "m")
    assert upload.stored(tmp_path / "m") is None, "what is being replaced must not look whole"
    with pytest.raises(LeapError, match=r"1 not sent to memory://out, such as .*access is refused \(AccessDenied\)"):
        upload.refuse_failed()
    assert "the same command sends it" in capsys.readouterr().err
    upload.send(tmp_path / "m")
    assert upload.stored(tmp_path / "m") == {"end": 2}
    upload.refuse_failed()


def test_a_shared_folder_will_do(tmp_path: Path) -> None:
    (tmp_path / "run" / "m").mkdir(parents=True)
    (tmp_path / "run" / "m" / "manifest.json").write_text("{}")
    Upload(tmp_path / "shared", tmp_path / "run", "manifest.json").send(tmp_path / "run" / "m")
    assert (tmp_path / "shared" / "m" / "manifest.json").read_text() == "{}"
    (tmp_path / "closed").write_text("no folder")
    with pytest.raises((LeapError, OSError), match="closed"):
        Upload(tmp_path / "closed", tmp_path / "run", "manifest.json")


def test_what_is_sent_again_is_what_lies_there(store: MemoryFileSystem, tmp_path: Path) -> None:
    """Nothing of an earlier one stays, and a marker that broke off as it was written is none."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "manifest.json").write_text("{}")
    for name in ("older", "manifest.json"):
        store.pipe_file(f"/out/m/{name}", b"")
    upload = Upload(as_path("memory://out"), tmp_path, "manifest.json")
    assert upload.stored(tmp_path / "m") is None
    upload.send(tmp_path / "m")
    upload.refuse_failed()
    assert {name: store.cat_file(name) for name in store.find("/out/m")} == {"/out/m/manifest.json": b"{}"}


def test_what_does_not_come_whole_there_is_not_marked(
    store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "m").mkdir()
    for name in ("a", "manifest.json"):
        (tmp_path / "m" / name).write_text("{}")
    monkeypatch.setattr(MemoryFileSystem, "put_file", lambda self, lpath, rpath, **_: self.pipe_file(rpath, b"{"))
    upload = Upload(as_path("memory://out"), tmp_path, "manifest.json")
    upload.send(tmp_path / "m")
    with pytest.raises(LeapError, match="a: 1 bytes are there, and 2 were sent"):
        upload.refuse_failed()
    assert upload.stored(tmp_path / "m") is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_full_disk_there_is_a_failed_upload(
    number: int, store: MemoryFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run" / "m").mkdir(parents=True)
    for name in ("a", "manifest.json"):
        (tmp_path / "run" / "m" / name).write_text("{}")

    def full(source: str, target: str, *_: Any, **__: Any) -> None:
        error = OSError(number, os.strerror(number), source)
        error.filename2 = target  # as shutil says it
        raise error

    monkeypatch.setattr("shutil.copyfile", full)
    upload = Upload(tmp_path / "shared", tmp_path / "run", "manifest.json")
    upload.send(tmp_path / "run" / "m")
    with pytest.raises(LeapError, match=f"1 not sent to {tmp_path}/shared, such as .* there "):
        upload.refuse_failed()
    assert not (tmp_path / "shared" / "m" / "manifest.json").exists()


OF_THE_HUB = """
from leap.records.remote import address, as_path, cache_folder, fetch_data, remote_type, open_file, status
data = as_path("hf://datasets/lab/plans")
assert [remote_type(data / name) for name in ("images", "train.jsonl", "none")] == ["directory", "file", None]
assert remote_type(as_path("hf://datasets/nobody/none/a")) is None
assert status(data / "images" / "a.png")[0] == 3
fetch_data(data / "train.jsonl")
assert len(open_file(data / "train.jsonl").read()) == 5000
assert open_file(data / "images" / "b.png").read() == b"defg"
fetch_data(data)
assert open_file(data / "images" / "a.png").read() == b"abc"
"""


@pytest.mark.slow
def test_a_data_set_of_the_hub(store: MemoryFileSystem, tmp_path: Path) -> None:
    """In a process of its own: huggingface_hub reads its address as it is imported. Each file comes once."""
    files = {"train.jsonl": bytes(5000), "images/a.png": b"abc", "images/b.png": b"defg"}
    with HubServer([Stored("lab/plans", "dataset", files)]) as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "PYTHONPATH": PYTHONPATH}
        subprocess.run([sys.executable, "-c", OF_THE_HUB], env={**os.environ, **own}, check=True, timeout=120)
        assert sorted(seen.path for seen in hub.seen if seen.what == "file") == sorted(files)


TO_THE_HUB = """
import sys
from pathlib import Path
from leap.records.remote import as_path
from leap.records.upload import Upload
upload = Upload(as_path("hf://datasets/lab/plans/results"), Path(sys.argv[1]), "manifest.json")
upload.send(Path(sys.argv[1], "m"))
upload.refuse_failed()
try:
    Upload(as_path("hf://datasets/nobody/none"), Path(sys.argv[1]), "manifest.json")
except Exception as error:
    assert "hf://datasets/nobody/none: there is no such" in str(error), error
else:
    raise AssertionError("there is no such repository")
"""


@pytest.mark.slow
def test_a_folder_goes_to_the_hub_in_one_commit(store: MemoryFileSystem, tmp_path: Path) -> None:
    (tmp_path / "m" / "deep").mkdir(parents=True)
    for name in ("a[1]", "deep/b", ".lock", "manifest.json"):
        (tmp_path / "m" / name).write_text(name)
    (tmp_path / "m" / "manifest.json").write_text("{}")
    with HubServer([Stored("lab/plans", "dataset", {"train.jsonl": b"{}"})]) as hub:
        own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_a"}
        environment = {**os.environ, **own, "PYTHONPATH": PYTHONPATH}
        command = [sys.executable, "-c", TO_THE_HUB, str(tmp_path)]
        subprocess.run(command, env=environment, check=True, timeout=120)
        assert len([seen for seen in hub.seen if seen.what == "commit"]) == 1
        assert hub.received == {
            "results/m/a[1]": b"a[1]", "results/m/deep/b": b"deep/b", "results/m/manifest.json": b"{}",
        }  # fmt: skip
