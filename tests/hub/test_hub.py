"""Which hub is asked, what its refusals mean to the user, and what is never sent or believed."""

import socket
from pathlib import Path
from typing import Any

import pytest
from downloading import DATA, QUICK, SIZES, get, on_disk, online, stored
from pydantic import ValidationError
from servers.hub import HubServer
from servers.hub_store import Fault

from leap.errors import LeapError, UsageError
from leap.hub.client import find_hub
from leap.hub.download import download, everything, log
from leap.hub.file_listing import HubFile, Repository

__all__ = ["online"]  # a fixture that every test here uses


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


def test_a_gated_repository_may_be_listed_and_still_refuse_its_files(tmp_path: Path) -> None:
    gated = Fault("gated", 403, {"X-Error-Code": "GatedRepo"})
    with HubServer([stored()], lambda seen: gated if seen.what == "file" else None) as hub:
        with pytest.raises(LeapError, match=r"accept its terms"):
            get(hub, tmp_path)
        assert max(hub.attempts.values()) == 1


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


@pytest.mark.parametrize("path", ["a//b.txt", "a/./b.txt", "a\x1b[2Jb.txt", "a\u202eb.txt", "good.txt/b.txt"])
def test_a_name_without_one_place_of_its_own_is_refused(tmp_path: Path, path: str) -> None:
    with (
        HubServer([stored({path: 10, "good.txt": 10})]) as hub,
        pytest.raises(LeapError, match="nothing is downloaded"),
    ):
        get(hub, tmp_path / "data")
    assert not on_disk(tmp_path)


HIDDEN = (
    *(
        ".git/hooks/post-checkout",
        "a/.git/config",
        ".GIT/config",
        ".bashrc",
        ".vscode/tasks.json",
        ".envrc",
        "a/.htaccess",
    ),
    *(".lock", ".cache/leap/listing.json", ".download-someone--data/x.part", ".gitmodules", ".gitattributes"),
)


def test_hidden_names_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What acts on its own has a hidden name: git's hooks, a shell's and an editor's files, and our own notes."""
    with HubServer([stored(dict.fromkeys([*HIDDEN, "good.txt", "b/..c.txt"], 10))]) as hub:
        get(hub, tmp_path)
    assert on_disk(tmp_path).keys() == {"good.txt"}
    message = capsys.readouterr().err
    assert "left out, since what is hidden may act on its own: .GIT/config, " in message
    assert ".gitattributes" not in message


def test_nothing_is_downloaded_through_a_link_that_leads_out(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "data"
    (outside / "b").mkdir(parents=True)
    folder.mkdir()
    (folder / "a").symlink_to(outside)
    with HubServer([stored({"a/b/x.txt": 10})]) as hub:
        with pytest.raises(LeapError, match=r"data/a: a link that leads out of"):
            get(hub, folder)
        assert not on_disk(outside)
        (folder / "a").unlink()
        (tmp_path / "link").symlink_to(folder)
        get(hub, tmp_path / "link")  # the folder itself may be one
    assert on_disk(folder).keys() == {"a/b/x.txt"}


def test_the_token_goes_to_the_hub_and_no_further(tmp_path: Path) -> None:
    with HubServer([stored()]) as hub:
        get(hub, tmp_path / "data")
        tokens = {(seen.what, seen.path): seen.token for seen in hub.seen}
    assert tokens["file", "README.md"] == tokens["other", "big.tar.gz"] == tokens["list", "datasets/someone/data"]
    assert tokens["file", "README.md"] == "Bearer hf_test"
    assert tokens["file", "big.tar.gz"] is None  # the storage is another host


def test_the_mirror_is_asked_where_the_hub_is_silent(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with HubServer([stored()]) as mirror, socket.create_server(("127.0.0.1", 0)) as silent:
        dead = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert find_hub(log, hub=mirror.url, mirror=dead).endpoint == mirror.url
        found = find_hub(log, hub=dead, mirror=mirror.url, timeout=0.2)
        assert f"{dead} does not answer within 0.2 s; using {mirror.url}" in capsys.readouterr().err
        download(found, DATA, tmp_path, everything, QUICK)
        assert {seen.token for seen in mirror.seen} == {None}
        with pytest.raises(LeapError, match=r"neither .* nor .* answers"):
            find_hub(log, hub=dead, mirror=dead, timeout=0.1)


def test_the_users_choice_of_a_hub_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    with HubServer([]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", f"{hub.url}/")
        assert find_hub(log).endpoint == hub.url
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(LeapError, match=r"HF_ENDPOINT=http://127.0.0.1:9 does not answer"):
        find_hub(log)
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    with pytest.raises(UsageError, match=r"HF_ENDPOINT=hf-mirror.com"):
        find_hub(log)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(LeapError, match=r"HF_HUB_OFFLINE .* unset it"):
        find_hub(log)


def test_a_server_that_is_no_hub_is_reported_from_one(tmp_path: Path) -> None:
    with HubServer([stored()]) as hub:
        hub.stored["dataset", "someone/data"].refuses = (200, "")  # {} for everything
        with pytest.raises(LeapError, match=r"as a hub does|tells no commit"):
            get(hub, tmp_path)


@pytest.mark.parametrize("said", [{"size": -1}, {"oid": "../../x"}, {"lfs": {"oid": "../../x"}}, {"path": None}])
def test_a_listing_that_no_hub_would_send_is_refused(said: dict[str, Any]) -> None:
    """Part of a hash becomes part of a path."""
    entry = stored().entry("big.tar.gz")
    assert HubFile.model_validate(entry).sha256 == entry["lfs"]["oid"]
    with pytest.raises(ValidationError):
        HubFile.model_validate(entry | said)
