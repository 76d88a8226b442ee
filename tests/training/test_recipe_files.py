"""Recipe files as people and accidents write them: read as they are meant, or refused in one line."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, run_script
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leap.errors import LeapError, UsageError
from leap.records.yaml_text import LARGEST, load_yaml
from leap.training.places import check_deepspeed
from leap.training.recipe import Layer, Recipe, compose, read_recipe
from leap.training.schedule import check_schedule

RECIPES = REPOSITORY / "configs" / "recipes"
FINETUNE = "scripts/training/run-finetuning.py"
DEMO = (RECIPES / "demo.yaml").read_text()
_NINE = ", ".join(["*a{}"] * 9)
BOMB = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{_NINE.replace('{}', str(n - 1))}]" for n in range(1, 12))])


def refusal(folder: Path, text: str | bytes) -> str:
    """What is said of a recipe file with this text."""
    path = folder / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LeapError) as error:
        read_recipe(path)
    message = str(error.value)
    assert str(path) in message
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    return message.replace(f"{path}", "")


def outcome(work: Callable[..., Any], *given: Any) -> tuple[Any, LeapError | None]:
    """What comes of it, or its refusal, which is of one line."""
    try:
        return work(*given), None
    except LeapError as error:
        refused = error
    assert len(str(refused).splitlines()) == 1
    return None, refused


# --- YAML


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("!!python/object/apply:os.system [id]\n", ":1: not valid YAML (the tag tag:yaml.org,2002:python/object/apply"),
        ("seed: !!int x\n", ":1: not valid YAML (the tag tag:yaml.org,2002:int; write a plain value)"),
        ("seed: !!binary //\n", "the tag"),
        ("seed: !mine 3\n", "the tag !mine"),
        ("? [a, b]\n: 1\n", "a key that is no name: ['a', 'b']"),
        ("? {a: b}\n: 1\n", "a key that is no name"),
        ("5: 1\n", "a key that is no name: 5"),
        ("null: 1\n", "a key that is no name: None"),
        ("seed: 1\nseed: 2\n", ":2: not valid YAML (seed stands there twice)"),
        (f"{BOMB}\n", "stands for no single value; write it out"),
        ("lr_scheduler_kwargs: &a {b: *a}\n", "stands for no single value"),
        ("seed: *nothing\n", "*nothing stands for no single value"),
        (f"seed: {'[' * 30000}\n", "nested more than 20 deep"),
        ("a: b: c\n", ":1: not valid YAML (mapping values are not allowed here)"),
        ("seed: 1\n---\nseed: 2\n", ":2: not valid YAML"),
        ("base: demo\nseed: 2024-13-45\n", "seed: Input should be a valid integer"),
        (f"base: demo\nseed: {'9' * 5000}\n", "seed: "),
        ('output_dir: "a\\ud800b"\n', "a control character in a value"),
        ('output_dir: "a\\x1bb"\n', "a control character in a value"),
        (b"seed: \x00\n", "not valid YAML"),
        (b"\xff\xfe\xfa", "not UTF-8"),
        ("- a\n- b\n", "found list"),
        ("", "found NoneType"),
        (f"# {'x' * LARGEST}\n", "characters, at most"),
        (f"# {'x' * 4 * LARGEST}\n", "bytes are no recipe"),
        (f"base: demo\n{'k' * 900}: 1\n", "unknown key"),
        ("base: 5\n", "base: the name of a recipe is expected, found int"),
        ("base: [demo]\n", "base: the name of a recipe is expected, found list"),
        ("base: ../nothing\n", "there is no such recipe; there are: demo"),
        ("base: /nothing.yaml\n", "there is no such recipe"),
        ("base: mine\n", "mine has a base itself"),
    ],
)  # fmt: skip
def test_yaml_that_is_no_recipe_is_refused(tmp_path: Path, text: str | bytes, words: str) -> None:
    assert words in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5), ("1E6", 1e6), ("-1.5e-3", -1.5e-3), (".5", 0.5), ("3.", 3.0), ("7_000", 7000), ("-4", -4),
        ("'1e-5'", "1e-5"), ("1e-5x", "1e-5x"), ("2024-01-31", "2024-01-31"), ("1:30", "1:30"), ("no", False),
        ("true", True), ("~", None), ("", None), ("[q_proj, v]", ["q_proj", "v"]),
        ("{min_lr: 1e-6}", {"min_lr": 1e-6}),
    ],
)  # fmt: skip
def test_plain_values_mean_what_they_say(text: str, value: Any) -> None:
    assert load_yaml(text, "here") == value
    assert load_yaml(f"a: &a {text}\nb: 1\n", "here") == {"a": value, "b": 1}


def test_a_value_may_be_used_again() -> None:
    assert load_yaml("a: &rate 1e-5\nb: *rate\n", "here") == {"a": 1e-5, "b": 1e-5}


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.text("abä: #'"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", min_size=1), inner, max_size=3),
    max_leaves=6,
))  # fmt: skip
def test_values_that_pyyaml_writes_are_read_back_or_refused(value: Any) -> None:
    found, refused = outcome(lambda: load_yaml(yaml.safe_dump(value, allow_unicode=True), "here"))
    assert refused or found == value


SNIPPETS = st.sampled_from(
    ["!!int", "!!set", "&a", "*a", "<<: ", "? ", "- ", "[", "]", "{", "}", ": ", "\n", "  ", "'", '"', "|", ">",
     "%YAML", "---", "...", "1e-5", ".nan", ".inf", "null", "true", "seed", "base", "\t", "#", "@", "\x07", "é"]
)  # fmt: skip


@given(st.lists(SNIPPETS, max_size=14).map("".join) | st.text(max_size=30))
def test_any_text_is_a_value_or_one_line(text: str) -> None:
    _, refused = outcome(lambda: load_yaml(text, "here"))
    assert str(refused or "here").startswith("here")


ANY = st.sampled_from(
    [".nan", ".inf", "-1", "0", "true", "null", "[]", "{}", "[1]", "{a: [b]}", "x", '""', "1e400", "1e99", "2.5", "-.5"]
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(sorted(Recipe.model_fields)), ANY, min_size=1, max_size=3), st.randoms())
@example({"lr_scheduler_kwargs": "{a: [b]}"}, random.Random(0))
def test_any_value_of_any_key_is_good_or_one_line(values: dict[str, str], chance: random.Random) -> None:
    """In a recipe and on a command line alike, which are never blamed for each other."""
    read = {key: load_yaml(text, key) for key, text in values.items()}
    lowest = Layer(Path("demo.yaml"), load_yaml(DEMO, "demo.yaml"))
    for layer in (Layer(Path("mine.yaml"), read), Layer(None, read)):
        recipe, refused = outcome(compose, [lowest, layer])
        if refused is None:
            json.dumps(recipe.model_dump(), allow_nan=False).encode()  # as it is stored with each checkpoint
        else:
            assert isinstance(refused, UsageError) == (layer.file is None)
            assert str(refused).startswith("mine.yaml: " if layer.file else ("--", "the recipe with these flags: "))


# --- a base, and who is to blame


def test_a_base_is_found_beside_a_recipe_among_leaps_own_and_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "deep").mkdir()
    mine = tmp_path / "deep" / "mine.yaml"
    for base in ("demo", "demo.yaml", f"{RECIPES}/demo.yaml", "../demo.yaml", "../demo", "~/demo.yaml", "~/demo"):
        mine.write_text(f"base: {base}\nseed: 7\n")
        (tmp_path / "demo.yaml").write_text(DEMO)
        assert read_recipe(mine) == read_recipe(RECIPES / "demo.yaml", {"seed": 7})
    (mine.parent / "demo.yaml").write_text(DEMO.replace("max_steps: 720", "max_steps: 9"))
    mine.write_text("base: demo\n")
    assert read_recipe(mine).max_steps == 9  # the nearest


def test_a_home_folder_in_a_recipe_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell has put it in place: a run would write into a folder named ~ in the workspace."""
    monkeypatch.setenv("HOME", "/home/me")
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: demo\noutput_dir: ~/runs/one\ntrain_file: data/~mine.jsonl\n")
    recipe = read_recipe(mine)
    assert (recipe.output_dir, recipe.train_file) == ("/home/me/runs/one", "data/~mine.jsonl")
    assert read_recipe(mine, {"val_file": "~/val.jsonl"}).val_file == "/home/me/val.jsonl"
    mine.write_text("base: demo\nimage_root: ~no-such-user/images\n")
    with pytest.raises(LeapError, match=f"{mine}: image_root: ~no-such-user/images: there is no such user's folder"):
        read_recipe(mine)
    mine.write_text("base: ~no-such-user/demo\n")
    with pytest.raises(LeapError, match=f"{mine}: base: ~no-such-user/demo.yaml: there is no such user's folder"):
        read_recipe(mine)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--learning_rate nan", "error: --learning_rate nan: Input should be a finite number"),
        ("--lora_r 4", "error: the recipe with these flags: lora_r needs finetuning: lora"),
        ("--max_steps true", "error: --max_steps True: a number is expected, found true or false"),
        ("--image_tokens_min 1000000000", "error: --image_tokens_min 1000000000: Input should be less than or equal"),
        ("--image_tokens_min 99", "error: the recipe with these flags: image_tokens_min=99 is over"),
        ("--max_eval_samples 3", "error: the recipe with these flags: max_eval_samples needs a val_file"),
        ("--weight_decay inf", "error: --weight_decay inf: Input should be a finite number"),
        ("--seed -1", "error: --seed -1: Input should be greater than or equal to 0"),
        ("--output_dir=", "error: --output_dir: '' is no path"),
        ("--lr_scheduler_kwargs [[[", "error: argument --lr_scheduler_kwargs: '[[[': not valid YAML"),
        ("--recipe nothing", "nothing.yaml: there is no such recipe; there are: demo, demo-full"),
    ],
)  # fmt: skip
def test_a_command_line_is_blamed_for_its_own_values(tmp_path: Path, line: str, message: str) -> None:
    done = run_script(FINETUNE, "--recipe", "demo", *line.split(), root=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "full.yaml" not in done.stderr.partition("there are")[0]


def test_the_file_with_the_wrong_value_is_blamed(tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text(f"{DEMO}fp16_full: true\n")
    (tmp_path / "mine.yaml").write_text("base: first\n")
    with pytest.raises(LeapError, match=rf"^{tmp_path}/first\.yaml: fp16_full: unknown key"):
        read_recipe(tmp_path / "mine.yaml", {"seed": 1})
    (tmp_path / "first.yaml").write_text(DEMO.replace("fp16: false", "fp16: true"))
    (tmp_path / "mine.yaml").write_text("base: first\nbf16: true\n")
    with pytest.raises(LeapError, match=rf"^{tmp_path}/mine\.yaml: bf16 and fp16 exclude each other"):
        read_recipe(tmp_path / "mine.yaml", {"seed": 1})


# --- values that only the libraries know


@pytest.mark.parametrize(
    "values", [{"min_lr": 1e308}, {"num_cycles": 1e308}, {"min_lr": "low"}, {"optimizer": 1}, {"x": 1}]
)
def test_a_schedule_that_leaves_its_range_is_refused(values: dict[str, Any]) -> None:
    recipe = read_recipe(
        RECIPES / "demo.yaml", {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": values}
    )
    with pytest.raises(LeapError, match=r"lr_scheduler_kwargs: .* does not fit"):
        check_schedule(recipe, 400)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "a JSON object is expected, found list"),
        ("{", "not valid JSON"),
        ("[" * 5000, "mine.json"),
        ('{"optimizer": 5}', "optimizer: an object is expected, found int"),
        ('{"optimizer": {"params": []}}', "optimizer.params: an object is expected, found list"),
        ('{"zero_optimization": "stage 2"}', "zero_optimization: an object is expected, found str"),
    ],
)
def test_a_deepspeed_file_of_another_form_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(LeapError) as error:
        check_deepspeed(path)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
