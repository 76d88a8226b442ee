"""Models by their names on the hub: what a name means, what is fetched of one, and where it is found again."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from downloading import QUICK, online
from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download
from servers.hub import HubServer
from servers.hub_store import Fault, Stored, by_path, cut

from leap.errors import LeapError, UsageError
from leap.hub import hub_models
from leap.hub.client import Hub
from leap.hub.download import download, everything
from leap.hub.file_listing import Repository
from leap.hub.hub_models import HubModel, fetch_model, find_model, hub_origin, local_folder
from leap.models.checkpoints import result_name

__all__ = ["online"]  # a fixture that every test here uses
NAME = "someone/planner"
FILES = {
    "README.md": b"a card",
    "checkpoint-200/config.json": b"{}",
    "checkpoint-200/model.safetensors": bytes(range(256)) * 20,
    "checkpoint-200/optimizer.pt": b"state" * 1000,
    "checkpoint-200/additional_chat_templates/tools.jinja": b"{{ tools }}",
    "checkpoint-200/runs/events.json": b"[]",
    "checkpoint-1000/config.json": b"{}",
    "checkpoint-1000/pytorch_model.bin": b"pickled" * 300,
    "checkpoint-1000/training_args.bin": b"pickled",
    "lora/adapter_config.json": b"{}",
    "lora/adapter_model.safetensors": b"weights",
}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache, elsewhere; a hub that fails is asked again at once."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub_models, "RetryPolicy", lambda: QUICK)
    return tmp_path / "cache"


def stored(files: Mapping[str, bytes] = FILES) -> Stored:
    return Stored(NAME, "model", dict(files))


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def asked(hub: HubServer) -> set[str]:
    return {seen.path for seen in hub.seen if seen.what == "file"}


def roots(tmp_path: Path, number: int) -> Sequence[Path]:
    """Workspaces: a process asks once for a model in each."""
    return [tmp_path / f"workspace{index}" for index in range(number)]


@pytest.mark.parametrize(
    ("text", "model"),
    [
        ("Qwen/Qwen3-VL-2B-Instruct", HubModel("Qwen/Qwen3-VL-2B-Instruct")),
        ("a/b@v1.0", HubModel("a/b", "v1.0")),
        ("a/b@refs/pr/3:out/checkpoint-5/", HubModel("a/b", "refs/pr/3", "out/checkpoint-5")),
        ("EvanSirius/leap-ckpts:checkpoint-5000", HubModel("EvanSirius/leap-ckpts", None, "checkpoint-5000")),
        *((path, None) for path in ("planner", "a/b/c", "models/tiny", "output/checkpoint-200:x", "x/checkpoint-5")),
        *((path, None) for path in ("./planner", "~/planner", "/tmp/planner", "here/planner")),
    ],
)
def test_what_a_name_means(tmp_path: Path, text: str, model: HubModel | None) -> None:
    (tmp_path / "here").mkdir()
    found = find_model(text, tmp_path)
    assert found == model if model else isinstance(found, Path)


@pytest.mark.parametrize("text", ["a/b:../../etc", "a/b:/etc", "a/b@../../main"])
def test_a_name_leads_nowhere_else(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="OWNER/NAME@REVISION"):
        find_model(text, tmp_path)


def test_a_folder_wins_and_says_so_where_both_could_be_meant(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "root" / NAME).mkdir(parents=True)
    assert find_model(NAME, tmp_path / "root") == tmp_path / "root" / NAME
    assert capsys.readouterr().err == ""
    with HubServer([stored()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        fetch_model(HubModel(NAME, None, "lora"), tmp_path)
    capsys.readouterr()
    assert find_model(NAME, tmp_path / "root") == tmp_path / "root" / NAME
    assert "is taken, not the hub's model of that name" in capsys.readouterr().err
    assert find_model(f"{NAME}:lora", tmp_path / "root") == HubModel(NAME, None, "lora")


def test_a_models_own_files_go_into_the_hubs_cache(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer([stored()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        model, commit = HubModel(NAME, None, "checkpoint-200"), hub.stored["model", NAME].commit
        folder = fetch_model(model, tmp_path)
        names = ("config.json", "model.safetensors", "additional_chat_templates/tools.jinja")
        assert asked(hub) == {f"checkpoint-200/{name}" for name in names}
        assert all((folder / name).read_bytes() == FILES[f"checkpoint-200/{name}"] for name in names)
        fetch_model(HubModel(NAME, commit, "checkpoint-1000"), tmp_path)
        assert asked(hub) >= {"checkpoint-1000/pytorch_model.bin"}
        assert not asked(hub) & {"checkpoint-1000/training_args.bin", "checkpoint-200/optimizer.pt"}
        hub.reset()
        (again, other) = roots(tmp_path, 2)
        assert fetch_model(model, again) == folder
        assert not asked(hub)
        assert fetch_model(HubModel(NAME, commit, "checkpoint-200"), other) == folder  # a commit is not asked for
    assert hub_origin(folder) == {"repository": NAME, "commit": commit, "subfolder": "checkpoint-200"}
    assert result_name(folder, tmp_path / "output") == "planner-checkpoint-200"
    # huggingface_hub finds what LEAP has fetched.
    found = snapshot_download(NAME, cache_dir=cache, local_files_only=True)
    assert Path(found) == folder.parent
    assert {repository.repo_id for repository in scan_cache_dir(cache).repos} == {NAME}


def test_what_huggingface_hub_has_fetched_is_found(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with HubServer([stored()]) as hub:
        theirs = Path(snapshot_download(NAME, cache_dir=cache, endpoint=hub.url))
        hub.reset()
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        (online_root, offline_root) = roots(tmp_path, 2)
        assert fetch_model(HubModel(NAME, None, "lora"), online_root) == theirs / "lora"
        assert not asked(hub)
    go_offline(monkeypatch)
    assert fetch_model(HubModel(NAME, "main", "lora"), offline_root) == theirs / "lora"


def test_what_others_have_fetched_in_part_is_completed(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers does it to look at a model's settings alone."""
    with HubServer([stored()]) as hub:
        commit = hub.stored["model", NAME].commit
        settings = "lora/adapter_config.json"
        theirs = hf_hub_download(NAME, settings, revision=commit, cache_dir=cache, endpoint=hub.url)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = fetch_model(HubModel(NAME, commit, "lora"), tmp_path)
    assert Path(theirs).parent == folder
    assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"


def test_a_new_commit_is_fetched_and_the_old_one_stays(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, offline = roots(tmp_path, 3)
    with HubServer([stored()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        old = fetch_model(HubModel(NAME, None, "lora"), first)
        hub.stored["model", NAME].files["lora/adapter_model.safetensors"] = b"better weights"
        new = fetch_model(HubModel(NAME, None, "lora"), second)
    assert (old / "adapter_model.safetensors").read_bytes() == b"weights"
    assert (new / "adapter_model.safetensors").read_bytes() == b"better weights"
    go_offline(monkeypatch)
    assert fetch_model(HubModel(NAME, None, "lora"), offline) == new
    assert fetch_model(HubModel(NAME, old.parent.name, "lora"), offline) == old


def test_offline_says_so_in_a_line(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go_offline(monkeypatch)
    with pytest.raises(LeapError, match=r"someone/planner:lora: neither .*models nor .*cache.* HF_HUB_OFFLINE") as said:
        fetch_model(HubModel(NAME, None, "lora"), tmp_path)
    assert "\n" not in str(said.value)


def test_without_an_answer_the_last_copy_is_taken(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = roots(tmp_path, 3)
    with HubServer([stored()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = fetch_model(HubModel(NAME, None, "lora"), first)
    assert fetch_model(HubModel(NAME, None, "lora"), second) == folder
    assert "does not answer" in (said := capsys.readouterr().err)
    assert "is taken as it was fetched last" in said
    with pytest.raises(LeapError, match="does not answer"):
        fetch_model(HubModel(NAME, None, "checkpoint-200"), third)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (HubModel("someone/plannr", None, "lora"), "has no model someone/plannr, or it is private: check the name"),
        (HubModel(NAME, "v9", "lora"), "has no revision 'v9'"),
        (
            HubModel(NAME, None, "checkpoint-20"),
            r"no model in checkpoint-20 at .*; it has someone/planner:lora, .*-200",
        ),
        (HubModel(NAME), r"no model of its own .*; it has someone/planner:lora, someone/planner:checkpoint-200, "),
    ],
)
def test_what_the_hub_does_not_have(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, model: HubModel, words: str
) -> None:
    with HubServer([stored()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(LeapError, match=words) as said:
            fetch_model(model, tmp_path)
    assert "\n" not in str(said.value)
    assert not asked(hub)


def test_a_gated_model_says_where_its_terms_are(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gated = Fault("gated", 403, {"X-Error-Code": "GatedRepo"})
    with HubServer([stored()], lambda seen: gated if seen.what == "file" else None) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(LeapError, match=r"accept its terms: do so at https://huggingface.co/someone/planner"):
            fetch_model(HubModel(NAME, None, "lora"), tmp_path)


def test_a_cut_download_goes_on_where_it_ended(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "checkpoint-200/model.safetensors"
    with HubServer([stored()], by_path({path: [cut(2000), Fault("503", 503)]})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = fetch_model(HubModel(NAME, None, "checkpoint-200"), tmp_path)
        assert hub.sent[path] == len(FILES[path])
    assert (folder / "model.safetensors").read_bytes() == FILES[path]


def test_ranks_that_start_together_fetch_it_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = HubModel(NAME, None, "checkpoint-200"), "checkpoint-200/model.safetensors"
    with HubServer([stored()], by_path({path: [Fault("slow", slow=0.01, step=1024)]})) as hub:
        asked_by_all = Hub(hub.url)  # threads stand in for ranks: huggingface_hub has one client a process
        monkeypatch.setattr(hub_models, "find_hub", lambda _: asked_by_all)
        with ThreadPoolExecutor(3) as pool:
            folders = set(pool.map(lambda root: fetch_model(model, root), roots(tmp_path, 3)))
        assert hub.sent[path] == len(FILES[path])
    assert len(folders) == 1


def test_what_lies_in_models_is_taken(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is this repository's, as far as a download noted it, and the wanted revision."""
    (root,) = roots(tmp_path, 1)
    with HubServer([stored()]) as hub:
        commit = hub.stored["model", NAME].commit
        download(Hub(hub.url), Repository(NAME, "model"), root / "models" / "planner", everything, QUICK)
    go_offline(monkeypatch)
    for revision in (None, commit):
        model = HubModel(NAME, revision, "lora")
        assert fetch_model(model, root) == local_folder(model, root) == root / "models" / "planner" / "lora"
    for wrong in (HubModel("another/planner", None, "lora"), HubModel(NAME, "0" * 40, "lora")):
        with pytest.raises(LeapError, match="neither"):
            fetch_model(wrong, root)


def test_ones_own_model_of_that_name_is_not_taken_for_the_hubs(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless nothing can be asked; then it is said."""
    model, places = HubModel(NAME, None, "lora"), roots(tmp_path, 3)
    for root in places:
        own = root / "models" / "planner" / "lora"
        own.mkdir(parents=True)
        (own / "adapter_config.json").write_text('{"mine": true}')
    online, unreachable, offline = places
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for root in (unreachable, offline):
        own = root / "models" / "planner" / "lora"
        assert fetch_model(model, root) == local_folder(model, root) == own
        assert f"taken for what has its name here, wherever that came from: {own}" in capsys.readouterr().err
        assert hub_origin(own) is None
        go_offline(monkeypatch)
        with pytest.raises(LeapError, match="neither"):
            fetch_model(HubModel(NAME, "main", "lora"), root)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with HubServer([stored()]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        folder = fetch_model(model, online)
    assert folder == local_folder(model, online)
    assert folder.is_relative_to(cache)
    assert f"{online / 'models/planner/lora'} is not known to have come from there" in capsys.readouterr().err


def test_the_origin_is_known_until_a_file_changes(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "planner"
    with HubServer([stored()]) as hub:
        download(Hub(hub.url), Repository(NAME, "model"), folder, everything, QUICK)
        commit = hub.stored["model", NAME].commit
    assert hub_origin(folder / "lora") == {"repository": NAME, "commit": commit, "subfolder": "lora"}
    assert hub_origin(folder) is None  # no model of its own
    (folder / "lora" / "adapter_model.safetensors").write_bytes(b"trained on")
    assert hub_origin(folder / "lora") is None
    assert hub_origin(tmp_path) is None
