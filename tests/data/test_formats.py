"""Forms of samples: each gives the ids and labels of LEAP's own; what is not understood is told with a right one."""

import base64
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REPOSITORY, TEST_DATA, TINY_RECIPE, run_script
from datasets import Dataset, Features, Image, List, Value
from test_training_data import draw

from leap.data.chat_encoding import IGNORED, ChatFormat
from leap.data.dataset import Sample, TrainingSet
from leap.data.formats import FORMATS, SampleError, SampleReader, detect, example_line
from leap.data.formats.sample_format import FormatName
from leap.data.formats.stored_images import ImageFolder
from leap.data.image import ImageEncoder, ImageSize
from leap.data.sample_datasets import find_samples
from leap.data.sample_files import _PIECE, SampleFile
from leap.errors import LeapError
from leap.models.loading import load_processor
from leap.preparation.check.checked_dataset import CheckedFile, check_training_file

ASKED, SAID, NEXT, ANSWER = "\nWhat is <here>?", "A cup.\n", "Move it.", "1) Pick up the cup. 2) Place it."
IMAGE = {"type": "image", "image": "a.png"}


@pytest.fixture(scope="module")
def chat(model: Path) -> ChatFormat:
    return ChatFormat(load_processor(model))


@pytest.fixture(scope="module")
def encoder(model: Path) -> ImageEncoder:
    return ImageEncoder(load_processor(model), ImageSize(4, 9))


@dataclass
class Files:
    """Files of samples in a folder that has a.png and b.png."""

    folder: Path
    chat: ChatFormat
    encoder: ImageEncoder

    def check(self, path: Any, **options: Any) -> CheckedFile:
        cache = self.folder / "cache"
        return check_training_file(path, [self.folder], self.chat, self.encoder, 4096, cache, **options)

    def lines(self, *samples: Any, name: str = "samples.jsonl") -> Path:
        path = self.folder / name
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in samples))
        return path

    def read(self, path: Path, **options: Any) -> list[Sample]:
        found = TrainingSet(self.check(path, **options), self.chat, self.encoder)
        return [found[index] for index in range(len(found))]

    def data_uri(self, name: str) -> str:
        return "data:image/png;base64," + base64.b64encode((self.folder / name).read_bytes()).decode()


@pytest.fixture
def files(tmp_path: Path, chat: ChatFormat, encoder: ImageEncoder) -> Files:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png", 64, 120, seed=1)
    return Files(tmp_path, chat, encoder)


def own(learn: bool = True) -> dict[str, Any]:
    """The conversation that every form below holds, in LEAP's own."""
    return {
        "messages": [
            {"role": "system", "content": "You plan."},
            {"role": "user", "content": [IMAGE, {"type": "text", "text": ASKED}]},
            {"role": "assistant", "content": SAID, **({"learn": True} if learn else {})},
            {"role": "user", "content": [{"type": "text", "text": NEXT}, {"type": "image", "image": "b.png"}]},
        ],
        "target": {"steps": ANSWER},
    }


def messages(first: Any, second: Any) -> list[dict[str, Any]]:
    return [
        {"role": "system", "content": "You plan."},
        {"role": "user", "content": first},
        {"role": "assistant", "content": SAID},
        {"role": "user", "content": second},
        {"role": "assistant", "content": ANSWER},
    ]


def openai(a: Any, b: Any) -> dict[str, Any]:
    def image(url: Any) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": url, "detail": "low"}}

    parts = [image(a), {"type": "text", "text": ASKED}], [{"type": "text", "text": NEXT}, image(b)]
    return {"messages": messages(*parts)}


def qwen(a: Any, b: Any) -> dict[str, Any]:
    parts = (
        [{"type": "image", "image": a}, {"type": "text", "text": ASKED}],
        [{"type": "text", "text": NEXT}, {"type": "image", "image": b, "max_pixels": 4096}],
    )
    return {"messages": messages(*parts)}


def marked(a: Any, b: Any) -> dict[str, Any]:
    return {"messages": messages(f"<image>{ASKED}", f"{NEXT}<image>"), "images": [a, b]}


def sharegpt(a: Any, b: Any) -> dict[str, Any]:
    turns = (("human", f"<image>{ASKED}"), ("gpt", SAID), ("human", f"{NEXT}<image>"), ("gpt", ANSWER))
    return {
        "id": 7,
        "image": [a, b],
        "system": "You plan.",
        "conversations": [{"from": speaker, "value": value} for speaker, value in turns],
    }


def alpaca(a: Any, b: Any) -> dict[str, Any]:
    return {
        "instruction": NEXT,
        "input": "",
        "output": ANSWER,
        "system": "You plan.",
        "history": [[f"<image>{ASKED}", SAID]],
        "images": [a, b],
    } | {"instruction": f"{NEXT}<image>"}


Written = Callable[[Any, Any], dict[str, Any]]
WRITTEN: dict[str, Written] = {
    "openai": openai, "qwen": qwen, "messages": marked, "sharegpt": sharegpt, "alpaca": alpaca,
}  # fmt: skip


def same(found: Sample, wanted: Sample) -> bool:
    pixels = (found.pixel_values == wanted.pixel_values).all() and (found.image_grid_thw == wanted.image_grid_thw).all()
    return bool(pixels) and (found.input_ids, found.labels) == (wanted.input_ids, wanted.labels)


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("images", ["paths", "data URIs", "file URIs"])
def test_every_form_gives_the_ids_and_labels_of_leaps_own(files: Files, form: str, images: str) -> None:
    names = {
        "paths": ["a.png", "b.png"],
        "data URIs": [files.data_uri("a.png"), files.data_uri("b.png")],
        "file URIs": [(files.folder / name).as_uri() for name in ("a.png", "b.png")],
    }[images]
    (wanted,) = files.read(files.lines(own()))
    path = files.lines(WRITTEN[form](*names), name="theirs.jsonl")
    (found,) = files.read(path)
    assert same(found, wanted)
    assert files.check(path).format.name == form
    (last,) = files.read(path, learned="last")
    assert same(last, files.read(files.lines(own(learn=False)))[0])
    assert not same(last, wanted)


def test_other_tools_read_these_samples_as_leap_does() -> None:
    """What they read was committed; those of them that leave something out are the fine-tuning code of Qwen and 2U1."""
    stored = json.loads((TEST_DATA / "other_tools" / "READ_BY_OTHERS.json").read_text())
    now = {form: json.loads(json.dumps(written("a.png", "b.png"))) for form, written in WRITTEN.items()}
    assert stored["samples"] == now, "run tests/data/other_tools/read_by_others.py again"
    read = {(tool, form): found for tool, one in stored["tools"].items() for form, found in one["forms"].items()}
    assert {form for (_, form), found in read.items() if found == "same"} == set(WRITTEN)
    assert sorted(tool for (tool, _), found in read.items() if found != "same") == ["2u1", "qwen_finetune"]


def test_labels_of_all_turns_are_what_a_model_writes(files: Files, chat: ChatFormat) -> None:
    (sample,) = files.read(files.lines(own()))
    labels = [label for label in sample.labels if label != IGNORED]
    assert labels == chat.answer_ids(SAID) + chat.answer_ids(ANSWER)
    assert files.check(files.folder / "samples.jsonl").label_tokens.tolist() == [len(labels)]
    assert [one for one in sample.labels if one != IGNORED] == [
        token for token, label in zip(sample.input_ids, sample.labels, strict=True) if label != IGNORED
    ]


def array(folder: Path, samples: Iterable[dict[str, Any]]) -> Path:
    path = folder / "samples.json"
    path.write_text(json.dumps(list(samples), indent=1, ensure_ascii=False))
    return path


def one_line(folder: Path, samples: Iterable[dict[str, Any]]) -> Path:
    path = folder / "line.json"
    path.write_text(json.dumps(list(samples)))
    return path


def table(folder: Path, samples: Iterable[dict[str, Any]]) -> Path:
    path = folder / "samples.parquet"
    pq.write_table(pa.Table.from_pylist(list(samples)), path)
    return path


def one_type(sample: dict[str, Any]) -> dict[str, Any]:
    """Contents as parts alone: a table's column has one type."""
    for turn in sample["messages"]:
        if isinstance(turn["content"], str):
            turn["content"] = [{"type": "text", "text": turn["content"]}]
    return sample


@pytest.mark.parametrize("form", WRITTEN)
@pytest.mark.parametrize("holder", [array, one_line, table])
def test_arrays_and_tables_hold_what_lines_hold(files: Files, form: str, holder: Any) -> None:
    wanted = files.read(files.lines(own(), own()))
    sample = WRITTEN[form]("a.png", "b.png")
    if form in ("openai", "qwen"):
        sample = one_type(sample)
    path = holder(files.folder, [sample] * 2)
    assert files.check(path).lines.tolist() == [1, 2]
    assert files.check(path).duplicates == 1
    assert all(same(one, other) for one, other in zip(files.read(path), wanted, strict=True))


def test_a_table_holds_images_as_datasets_writes_them(files: Files) -> None:
    """`Image` features are structs of bytes and path; a column of plain bytes is taken, too."""
    content = [(files.folder / name).read_bytes() for name in ("a.png", "b.png")]
    (wanted,) = files.read(files.lines(own()))
    for images in ([{"bytes": one, "path": None} for one in content], content):
        (found,) = files.read(table(files.folder, [marked(*images)]))
        assert same(found, wanted)
    assert len(list((files.folder / "cache" / "training" / "images").iterdir())) == 2


def test_a_table_of_leaps_own_form_is_read(files: Files) -> None:
    (wanted,) = files.read(files.lines(own(learn=False)))
    (found,) = files.read(table(files.folder, [one_type(own(learn=False))]))
    assert same(found, wanted)


def test_elements_of_a_large_array_have_their_numbers(tmp_path: Path) -> None:
    """Pieces end anywhere, also within an element and within a character of several bytes."""
    samples = [{"n": number, "text": "é" * (_PIECE // 7), "more": [number, {}]} for number in range(20)]
    path = array(tmp_path, samples)
    found = list(SampleFile(path).samples())
    assert [json.loads(raw) for _, raw in found] == samples
    assert [number for number, _ in found] == list(range(1, 21))
    path.write_text(json.dumps(samples))  # in one line
    assert list(map(itemgetter(0), SampleFile(path).samples())) == list(range(1, 21))
    lines = array(tmp_path, samples).read_text().split("\n")
    path.write_text(path.read_text()[:-30])
    with pytest.raises(LeapError, match=rf"samples\.json:{len(lines) - 5}: not valid JSON"):
        list(SampleFile(path).samples())


def test_the_own_form_keeps_its_cache_and_its_fingerprint(files: Files) -> None:
    """Both are what they were when there was no other form: old runs go on, old checks are found."""
    path = files.lines(own())
    checked = files.check(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    key = hashlib.sha256(json.dumps([3, digest, files.chat.identity()]).encode()).hexdigest()
    assert checked.fingerprint == digest
    assert checked.image_roots == (files.folder,)
    assert (files.folder / "cache" / "training" / f"samples-{key[:16]}" / "samples.arrow").is_file()
    assert checked.table[0]["sample"] == path.read_text().strip()


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_a_forms_example_is_one(form: Any, tmp_path: Path) -> None:
    raw = example_line(form).replace("…", "iVBORw0K").encode()
    assert detect([(1, raw)], tmp_path) is form
    sample, _ = SampleReader(form, images=ImageFolder(tmp_path)).read(raw)
    assert (sample.target.steps, len(sample.images())) == ("1) Pick up the cup.", 1)
    assert {one.name for one in FORMATS} == set(get_args(FormatName))


def test_a_form_is_found_out_behind_samples_of_text(files: Files) -> None:
    plain = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    for form, one in (("qwen", qwen), ("openai", openai), ("messages", marked)):
        assert files.check(files.lines(plain, plain, one("a.png", "b.png"))).format.name == form
    assert files.check(files.lines(plain)).format.name == "openai"
    assert files.check(files.lines(plain), data_format="qwen").format.name == "qwen"


def without(sample: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in sample.items() if name != key}


PAIR = [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"prompt": "a", "chosen": "b"}, ["samples.jsonl:1: ", "keys: prompt, chosen", "A right one (openai): {"]),
        ({"instruction": "a", "ouput": "b"}, ["looks like Alpaca's instructions, without `output`", '"output": "1) P']),
        ({"message": [], "images": []}, ["looks like messages with <image> marks", "without `messages`"]),
        (without(sharegpt("a.png", "b.png"), "image"), ["2 <image> mark(s) in the texts for 0 image(s)", '"gpt"']),
        (marked("a.png", "b.png") | {"images": ["a.png"]}, ["samples.jsonl:1: 2 <image> mark(s) in the texts for 1"]),
        (marked("a.png", "b.png") | {"images": ["a.png"] * 3}, ["2 <image> mark(s) in the texts for 3 image(s)"]),
        ({"conversations": [{"from": "human"}]}, ["conversations.0.value: Field required", "read as ShareGPT's"]),
        ({"conversations": [{"from": "tool", "value": "a"}]}, ["conversations.0.from: Input should be 'human'"]),
        ({"conversations": PAIR[:1]}, ["the last turn is not the assistant's"]),
        ({"messages": [{"role": "user", "content": "a"}]}, ["no response to learn (LEAP's own form has it in `target"]),
        ({"conversations": PAIR, "tools": "[{}]"}, ["`tools`: tool calls are not learned"]),
        ({"conversations": PAIR, "videos": ["a.mp4"]}, ["0 <video> mark(s) in the texts for 1 video(s)"]),
        (
            {"conversations": [{"from": "human", "value": "<video>a"}, PAIR[1]], "video": "a.mp4"},
            ["video files are not read; extract frames (ffmpeg"],
        ),
        (qwen("https://a.example/a.png", "b.png"), ["nothing is downloaded in training; fetch it"]),
        (
            openai("data:image/png;base64,%%%", "b.png"),
            ["image data:image/png;base64: the data: URI cannot be decoded"],
        ),
        (openai("data:image/png,abc", "b.png"), ["cannot be decoded (no base64)"]),
        (alpaca("a.png", "b.png") | {"output": " "}, ["target.steps: the answer is empty"]),
    ],
)
def test_what_is_not_understood_is_told_in_a_line(files: Files, sample: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(LeapError) as error:
        files.check(files.lines(sample))
    (line,) = str(error.value).splitlines()
    assert all(word in line for word in words), line


def test_a_format_that_is_given_is_not_found_out(files: Files) -> None:
    with pytest.raises(LeapError, match=r"conversations: Field required; .* read as ShareGPT's"):
        files.check(files.lines(marked("a.png", "b.png")), data_format="sharegpt")


def test_frames_in_a_videos_place_are_images(files: Files) -> None:
    frames = ["a.png", "b.png"]
    wanted = {
        "messages": [
            {"role": "user", "content": [IMAGE, {"type": "image", "image": "b.png"}, {"type": "text", "text": "a"}]}
        ],
        "target": {"steps": "b"},
    }
    content = [{"type": "video", "video": frames}, {"type": "text", "text": "a"}]
    asked, said = {"role": "user", "content": content}, {"role": "assistant", "content": "b"}
    spoken = [{"from": "human", "value": "<video>a"}, {"from": "gpt", "value": "b"}]
    (sample,) = files.read(files.lines(wanted))
    for form, other in (
        ("leap", {"messages": [asked], "target": {"steps": "b"}}),
        ("qwen", {"messages": [asked, said]}),
        ("sharegpt", {"conversations": spoken, "video": frames}),
        ("sharegpt", {"conversations": spoken, "videos": [frames]}),
    ):
        path = files.lines(other, name="frames.jsonl")
        assert files.check(path).format.name == form
        assert same(files.read(path)[0], sample)


def test_turns_that_are_not_to_be_learned_are_not(files: Files) -> None:
    """OpenAI's weight and ms-swift's loss; what follows the last learned turn could change nothing."""
    (last,) = files.read(files.lines(own(learn=False)))
    (first,) = files.read(files.lines(own() | {"messages": own()["messages"][:2], "target": {"steps": SAID}}))
    for key, off, one in (("weight", 0, openai), ("loss", False, marked)):
        for place, wanted in ((2, last), (4, first)):
            sample = one("a.png", "b.png")
            sample["messages"][place][key] = off
            (found,) = files.read(files.lines(sample))
            assert same(found, wanted)
    sample = openai("a.png", "b.png")
    for place in (2, 4):
        sample["messages"][place]["weight"] = 0
    with pytest.raises(LeapError, match="every turn of the assistant is marked as not to be learned"):
        files.check(files.lines(sample))


def spoken(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample of the demo, a question with images, in ShareGPT's form."""
    (message,) = sample["messages"]
    question = "".join(part.get("text", "<image>") for part in message["content"])
    turns = {"human": question, "gpt": sample["target"]["steps"]}
    return {
        "conversations": [{"from": speaker, "value": value} for speaker, value in turns.items()],
        "image": [part["image"] for part in message["content"] if part["type"] == "image"],
    }


def test_a_run_is_told_what_it_reads_and_trains_on_it(workspace: Path, tmp_path: Path) -> None:
    own = workspace / "data" / "train_demo.jsonl"
    theirs = array(tmp_path, [spoken(json.loads(line)) for line in own.read_text().splitlines()])
    sizes = "--image_tokens_min 4 --image_tokens_max 9"
    flags = f"--recipe {TINY_RECIPE} --max_steps 1 --logging_steps 1 --warmup_steps 0 {sizes} --report_to none"
    losses = []
    for file, form in ((theirs, "ShareGPT's conversations (LLaVA)"), (own, "LEAP's own")):
        output = tmp_path / file.stem
        given = ["--train_file", str(file), "--output_dir", str(output)]
        done = run_script("scripts/training/run-finetuning.py", *flags.split(), *given, root=workspace)
        assert done.returncode == 0, done.stderr
        assert f"read as     {file.name}: {form}; sample 1 of 24: user: " in done.stdout
        state = json.loads((output / "checkpoint-1" / "trainer_state.json").read_text())
        losses.append(state["log_history"][0]["loss"])
    assert losses[0] == losses[1]


def test_the_documents_list_every_form() -> None:
    for page in ("data.md", "data_zh.md"):
        table = (REPOSITORY / "docs" / page).read_text().partition("| `data_format` |")[2]
        rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
        assert sorted(rows) == sorted(get_args(FormatName))


@pytest.mark.parametrize("form", ["messages", "openai"])
def test_a_folder_is_a_data_set(files: Files, form: str) -> None:
    """As the hub has them: Parquet with `Image` features or paths, splits by the files' names."""
    (wanted,) = files.read(files.lines(own()))
    folder = files.folder / "mine"
    (folder / "data").mkdir(parents=True)
    if form == "messages":
        text = {"role": Value("string"), "content": Value("string")}
        features = Features({"messages": List(text), "images": List(Image())})
        paths = [str(files.folder / name) for name in ("a.png", "b.png")]
        made = Dataset.from_list([marked(*paths)] * 3, features=features)
    else:
        made = Dataset.from_list([one_type(openai("a.png", "b.png"))] * 3)
    made.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    made.select([0]).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    made.save_to_disk(files.folder / "saved")
    prints = set()
    shutil.copytree(folder, files.folder / "copy")
    for given, count in (("mine", 3), ("mine:test", 1), ("copy:train", 3), ("saved", 3)):
        source = find_samples(given, files.folder, files.folder / "cache")
        assert source is not None
        checked = files.check(source)
        found = TrainingSet(checked, files.chat, files.encoder)
        assert len(found) == count
        assert same(found[0], wanted)
        assert found.place(count - 1).endswith(f"{given}:{count}")
        assert checked.format.name == form
        if given != "saved":
            prints.add(checked.fingerprint)
    assert len(prints) == 2  # the same rows are the same data, wherever they lie
    with pytest.raises(LeapError, match=r"mine:nope: it has no split 'nope'; give one: .*/mine:train, .*/mine:test"):
        files.check(find_samples("mine:nope", files.folder, files.folder / "cache"))


def test_the_hub_is_asked_for_what_is_named_like_its_data_sets(files: Files) -> None:
    (files.folder / "data").mkdir()
    for nothing in ("train.jsonl", "data/mine", "org/train.jsonl", "/org/name", "org/name/more"):
        assert find_samples(nothing, files.folder, files.folder) is None
    source = find_samples("org/name:train", files.folder, files.folder)
    assert source is not None
    with pytest.raises(LeapError, match=r"^org/name:train: there is no such file, .* HF_HUB_OFFLINE=1 keeps"):
        files.check(source)


def test_a_folder_that_is_no_data_set_is_told(files: Files) -> None:
    (files.folder / "empty").mkdir()
    source = find_samples("empty", files.folder, files.folder / "cache")
    with pytest.raises(LeapError, match=r"empty: `datasets` cannot read it .*; name one of its files"):
        files.check(source)


ODD = [None, 0, 1.5, True, "", [], {}, [[]], [None], "<image>", "<video>", "data:,", "data:image/png;base64,AA=", "\0",
       "http://x", "file:///a%00b", {"bytes": None}, {"bytes": "x"}, float("nan"), "\ud800"]  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value of a record is."""
    yield place
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else []):
        yield from places(inner, (*place, key))


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_any_value_anywhere_is_a_sample_or_told(form: Any, tmp_path: Path) -> None:
    """In place of each value of a right sample; as a line, and as a table's row."""
    text = example_line(form).replace("…", "iVBORw0K")
    reader, outcomes = SampleReader(form, images=ImageFolder(tmp_path)), Counter[bool]()
    for place in places(json.loads(text)):
        for odd in ODD:
            record = json.loads(text)
            inside = record
            for key in place[:-1]:
                inside = inside[key]
            if place:
                inside[place[-1]] = odd
            rows = [json.dumps(record if place else odd).encode(), *([record] if place else [])]
            for raw in rows:
                try:
                    outcomes[bool(reader.read(raw))] += 1
                except SampleError:
                    outcomes[False] += 1
    assert outcomes[True] > 5
    assert outcomes[False] > 50


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    path = table(tmp_path, [marked("a.png", "b.png") | {"note": str(number)} for number in range(50)])
    whole, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole[: int(random.integers(5, len(whole)))])
        damaged[int(random.integers(4, len(damaged)))] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(LeapError, match=r"samples\.parquet: the Parquet table cannot be read after row \d+ \("):
            list(SampleFile(path).samples())
