"""What the READMEs tell a reader to type exists and is accepted; what their trees show is there."""

import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from accelerate.commands.launch import launch_command_parser
from conftest import REPOSITORY, Parsed, run_script
from test_layering import ROOMS
from torch.distributed.run import get_args_parser

READMES = [REPOSITORY / "README.md", REPOSITORY / "README_zh.md"]
PAGES = [*READMES, *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
# Options that the bash scripts hand on to a Python script.
FORWARDS = {
    "scripts/training/run-training.sh": "scripts/training/run-finetuning.py",
    "scripts/download/download_model.sh": "scripts/download/download_model.py",
    "scripts/ablation/run-lora-training.sh": "scripts/ablation/run-lora-finetuning.py",
    "scripts/ablation/run-ablation-experiments.sh": "scripts/ablation/run-ablation-experiments.py",
    "run_vlabench_evaluation_bingXing.sh": "scripts/evaluation/run_parallel_evaluation.py",
}


def commands(readme: Path) -> list[list[str]]:
    """Every command of a page's bash blocks as words, without the variables set before it."""
    lines = "\n".join(BLOCK.findall(readme.read_text())).replace("\\\n", " ").splitlines()
    split = [re.sub(r"^(?:[A-Z_]+=\S+ )+", "", line) for line in lines]
    return [words for line in split if (words := shlex.split(line, comments=True))]


ALL = sorted({shlex.join(words) for page in PAGES for words in commands(page)})


@pytest.mark.parametrize("line", ALL)
def test_a_pages_command_is_accepted(line: str, parse_only: None) -> None:
    program, *rest = shlex.split(line)
    if program in ("python", "bash") and rest[0] != "-m":
        script = REPOSITORY / rest[0]
        assert script.is_file()
        if script.suffix == ".sh":
            subprocess.run(["bash", "-n", str(script)], check=True)
        target = FORWARDS.get(rest[0], rest[0])
        if target.endswith(".py"):
            with pytest.raises(Parsed):
                run_script(target, *rest[1:])
        else:
            message = re.findall(r"--[a-z]+|tests/\S+|^    [\w.]+(?=\) model)", script.read_text(), re.MULTILINE)
            assert {word for word in rest[1:] if not word.startswith("~")} <= {word.strip() for word in message}
    elif program in ("torchrun", "accelerate"):
        parser = get_args_parser() if program == "torchrun" else launch_command_parser()
        with pytest.raises(Parsed):
            parser.parse_args(rest[program == "accelerate" :])
        script = next(word for word in rest if word.endswith(".py"))
        with pytest.raises(Parsed):
            run_script(script, *rest[rest.index(script) + 1 :])
    elif program == "python":
        assert (REPOSITORY / rest[1].replace(".", "/")).with_suffix(".py").is_file()
    elif program == "hf":
        shown = subprocess.run(["hf", "download", "--help"], capture_output=True, text=True, check=True).stdout
        assert rest[0] == "download"
        assert all(word in shown for word in rest if word.startswith("--"))
    elif program == "lmms-eval":
        folder, task = (rest[rest.index(flag) + 1] for flag in ("--include_path", "--tasks"))
        assert (REPOSITORY / folder / f"{task}.yaml").is_file()
    else:
        assert program in ("git", "cd", "conda", "pip", "ray", "tensorboard"), f"nobody checks {program}"


# Of hf download, vLLM, inspect, pip and ray.
OTHERS_FLAGS = {
    *("--repo-type", "--local-dir", "--max-num-seqs", "--generation-config", "--log-dir", "--no-deps"),
    *("--data-parallel-size", "--disable-usage-stats"),
}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_flags_are_shown_in_one_form(page: Path) -> None:
    assert set(re.findall(r"(?<![\w-])--[a-z]+-[a-z-]+", page.read_text())) <= OTHERS_FLAGS


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_images_and_links_into_the_repository_exist(page: Path) -> None:
    """Headings that are linked to as well, by the names that GitHub gives them."""
    links = re.findall(r"\]\(([^):]+)\)|src=\"([^\":]+)\"", page.read_text())
    for link, _, heading in ((a or b).partition("#") for a, b in links):
        target = page.parent / link if link else page
        assert target.exists(), link
        assert not heading or heading in anchors(target), heading


def test_the_site_has_every_page() -> None:
    """What it links to is checked where mkdocs is: run-tests.sh --all builds it, with warnings as errors."""
    nav = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    listed = [page for language in nav for pages in language.values() for entry in pages for page in entry.values()]
    homes = ["index.md" if page.stem == "README" else "index_zh.md" for page in READMES]
    assert sorted(listed) == sorted([*homes, *(page.name for page in PAGES if page not in READMES)])


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_both_languages_have_the_same_pages_and_commands() -> None:
    for page in PAGES:
        if not page.stem.endswith("_zh"):
            assert commands(page) == commands(page.with_stem(f"{page.stem}_zh")), page


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_tree_shows_what_is_there(readme: Path) -> None:
    """Every folder and file named in the tree exists, or is one that git ignores or that a later step brings."""
    (tree,) = re.findall(r"```text\nLEAP/\n(.*?)```", readme.read_text(), re.DOTALL)
    parents: list[str] = []
    for line in tree.splitlines():
        match = re.match(r"((?:│   |    )*)[├└]── (\S+)", line)
        if match is None:
            assert re.match(r"[│ ]+\S", line), line  # a comment that runs on
            continue
        depth = len(match[1]) // 4
        parents = [*parents[:depth], match[2]]
        path = REPOSITORY.joinpath(*parents)
        assert path.exists() or match[2] in ("demo/", ".cache/", "VLABench/"), path


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_the_tree_lists_the_rooms_from_the_bottom_to_the_top(readme: Path) -> None:
    assert tuple(re.findall(r"^│   [├└]── (\w+)/", readme.read_text(), re.MULTILINE)) == ROOMS[1:]


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_a_readme_is_short(readme: Path) -> None:
    """What does not fit is a page of docs/, and a line with a link here."""
    assert len(readme.read_text().splitlines()) < 200


def test_the_conda_file_installs_what_pip_installs() -> None:
    environment = yaml.safe_load((REPOSITORY / "qwen-ft-env.yml").read_text())
    (listed,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert listed == ["-c constraints.txt", "-e .[demo,dev]"]
    pinned = (REPOSITORY / "constraints.txt").read_text()
    project = (REPOSITORY / "pyproject.toml").read_text()
    for name in re.findall(r'^    "([A-Za-z-]+)>=', project, re.MULTILINE):
        pin = rf"^{name.replace('-', '[-_]')}=="
        assert re.search(pin, pinned, re.MULTILINE | re.IGNORECASE), f"{name} is not pinned"


@pytest.mark.slow
def test_pip_accepts_the_conda_files_list(tmp_path: Path) -> None:
    environment = yaml.safe_load((REPOSITORY / "qwen-ft-env.yml").read_text())
    (listed,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    copy = tmp_path / "LEAP"
    copy.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "README.md", "LICENSE", "leap", "configs"):
        source = REPOSITORY / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
    (copy / "conda-pip.txt").write_text("\n".join(listed))
    subprocess.run(
        ["python", "-m", "pip", "install", "--dry-run", "--quiet", "-r", "conda-pip.txt"], cwd=copy, check=True
    )


def test_the_benchmarks_page_shows_the_committed_results() -> None:
    folder = REPOSITORY / "benchmarks"
    table = runpy.run_path(str(folder / "make_readme.py"))["table"]
    assert table(folder / "results") == (folder / "README.md").read_text(), "run python benchmarks/make_readme.py"


def test_every_path_that_contributors_are_sent_to_is_there() -> None:
    paths = re.findall(r"`([\w./-]+/[\w./-]+)`", (REPOSITORY / "CONTRIBUTING.md").read_text())
    assert len(paths) > 30
    missing = [path for path in paths if "NAME" not in path and not (REPOSITORY / path).exists()]
    assert missing == []
