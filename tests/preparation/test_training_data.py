"""Training files: every fault found at once, nothing looked at twice, samples and images read only when asked for."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from leap.data.chat_encoding import IGNORED, ChatFormat
from leap.data.collator import Collator
from leap.data.dataset import Sample, TrainingSet
from leap.data.formats import SampleReader
from leap.data.formats.leap_samples import LeapSample
from leap.data.image import ImageEncoder, ImageSize, load_image
from leap.data.sample_files import SampleFile
from leap.errors import LeapError
from leap.models.loading import load_processor
from leap.preparation.check.checked_dataset import CheckedFile, check_training_file
from leap.preparation.check.sample_check import check_samples
from leap.records.training import TrainingSample
from leap.workers import map_in_order

SIZE = ImageSize(4, 9)


@pytest.fixture(scope="module")
def processor(model: Path) -> Any:
    return load_processor(model)


@pytest.fixture(scope="module")
def chat(processor: Any) -> ChatFormat:
    return ChatFormat(processor)


@pytest.fixture(scope="module")
def encoder(processor: Any) -> ImageEncoder:
    return ImageEncoder(processor, SIZE)


@pytest.fixture
def check(tmp_path: Path, chat: ChatFormat, encoder: ImageEncoder) -> Any:
    """`check_training_file` of tmp_path/samples.jsonl with images under tmp_path."""

    def run(path: Path = tmp_path / "samples.jsonl", max_length: int = 4096, **options: Any) -> CheckedFile:
        given = {"chat": chat, "encoder": encoder, "cache": tmp_path / "cache", "image_roots": [tmp_path], **options}
        return check_training_file(path, max_length=max_length, **given)

    return run


def one(question: str, *images: str, answer: str = "1) Go.") -> dict[str, Any]:
    parts = [{"type": "image", "image": image} for image in images]
    return {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}],
        "target": {"steps": answer},
    }


def write_samples(folder: Path, samples: Sequence[dict[str, Any] | str]) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in samples) + "\n")
    return path


def draw(path: Path, width: int = 90, height: int = 70, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


CONVERSATION = {
    "messages": [
        {"role": "system", "content": "You plan for a robot."},
        {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "What is here?"}]},
        {"role": "assistant", "content": "A cup. <|im_end|>"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And now, "},
                {"type": "image", "image": "b.png"},
                {"type": "text", "text": " or "},
                {"type": "image", "image": "a.png"},
                {"type": "text", "text": "?"},
            ],
        },
    ],
    "target": {"steps": "1) Pick up the cup. 2) Say <|image_pad|>."},
}


def test_only_the_final_answer_of_a_conversation_is_learned(
    tmp_path: Path, check: Any, chat: ChatFormat, encoder: ImageEncoder, processor: Any
) -> None:
    """Several images over several turns, with a system message: the prompt is the processor's own, and no label."""
    one, other = draw(tmp_path / "a.png"), draw(tmp_path / "b.png", 64, 120, seed=1)
    conversation = json.loads(json.dumps(CONVERSATION).replace(" <|im_end|>", ""))  # which theirs would take for an end
    write_samples(tmp_path, [conversation])
    sample = TrainingSet(check(), chat, encoder)[0]
    answer = chat.answer_ids(conversation["target"]["steps"])
    assert [label for label in sample.labels if label != IGNORED] == answer
    assert sample.input_ids[-len(answer) :] == answer
    text = processor.apply_chat_template(
        [
            {"role": turn.role, "content": [{"type": part.type, **part.model_dump()} for part in turn.parts()]}
            for turn in TrainingSample.model_validate(conversation).messages
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    images = [load_image(path) for path in (one, other, one)]
    theirs = processor(text=[text], images=images, size=encoder.size, return_tensors="pt")
    assert sample.input_ids[: -len(answer)] == theirs["input_ids"][0].tolist()
    assert torch.equal(sample.image_grid_thw, theirs["image_grid_thw"])
    assert torch.allclose(encoder.scale(sample.pixel_values), theirs["pixel_values"], atol=1e-5)


def test_lengths_without_ids_are_those_of_the_ids(chat: ChatFormat) -> None:
    samples = [
        TrainingSample.model_validate(found) for found in (CONVERSATION, one("x"), one("<|im_end|><|im_end|> y", "c"))
    ]
    lengths = chat.lengths([(found.messages, found.target.steps) for found in samples])
    for found, counted in zip(samples, lengths, strict=True):
        encoded = chat.encode(found.messages, found.target.steps, [1] * len(found.images()))
        assert counted.images == len(found.images())
        assert counted.prompt + counted.answer == len(encoded.input_ids)
        assert counted.answer == sum(label != IGNORED for label in encoded.labels)


def test_the_check_counts_what_a_sample_holds(
    workspace: Path, tmp_path: Path, check: Any, chat: ChatFormat, encoder: ImageEncoder
) -> None:
    data = workspace / "data"
    checked = check(data / "train_demo.jsonl", image_roots=[workspace, data])
    samples = TrainingSet(checked, chat, encoder)
    assert len(samples) == len(checked) == 24
    for index in range(24):
        sample = samples[index]
        assert (sample.pixel_values.dtype, *sample.pixel_values.shape[1:]) == (torch.uint8, 3, 256)
        counted = checked.tokens[index], checked.patches[index], checked.images[index], checked.label_tokens[index]
        labels = sum(label != IGNORED for label in sample.labels)
        assert counted == (len(sample.input_ids), len(sample.pixel_values), len(sample.image_grid_thw), labels)
        assert samples.place(index) == f"{data / 'train_demo.jsonl'}:{index + 1}"
    columns = checked.tokens, checked.label_tokens, checked.patches, checked.images, checked.lines
    assert {column.dtype for column in columns} == {np.dtype("int32")}


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    draw(tmp_path / "good.png")
    torn = draw(tmp_path / "torn.png", seed=1)
    torn.write_bytes(torn.read_bytes()[:-2000])  # its header is whole
    draw(tmp_path / "stripe.png", 1000, 2)
    video = {"type": "video", "video": "a.mp4"}
    return write_samples(
        tmp_path,
        [
            one("first", "good.png"),
            "{no JSON",
            "",
            one("blank", "good.png", answer=" \n"),
            one("lost", "good.png", "lost.png"),
            one("torn", "torn.png"),
            one("stripe", "stripe.png"),
            one("first", "good.png"),
            one("long " * 300),
            {"messages": [{"role": "user", "content": [video]}], "target": {"steps": "1) Go."}},
            one("torn again", "torn.png"),
        ],
    )


def test_every_fault_is_found_at_once(faulty: Path, tmp_path: Path, check: Any) -> None:
    with pytest.raises(LeapError) as error:
        check(max_length=200)
    (message,) = str(error.value).splitlines()
    assert message.startswith(f"{faulty}:2: the whole record")
    report_path = next((tmp_path / "cache" / "training").glob("*-report.json"))
    assert str(report_path) in message
    assert "unusable samples in all: 7" in message
    report = json.loads(report_path.read_text())
    assert [(problem["line"], problem["kind"]) for problem in report["problems"]] == [
        (2, "invalid sample"),
        (4, "empty answer"),
        (5, "missing image"),
        (6, "corrupt image"),
        (7, "corrupt image"),
        (10, "invalid sample"),
        (11, "corrupt image"),
    ]
    reasons = [problem["reason"] for problem in report["problems"]]
    words = ("JSON", "answer is empty", "lost.png: missing", "torn.png: cannot be decoded", "narrow", "video", "torn")
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))
    assert report["too_long"] == [9]
    assert report["duplicates"] == [{"line": 8, "repeats": 1}]
    with pytest.raises(LeapError) as again:  # by what is cached
        check(max_length=200)
    assert str(again.value) == message


def test_duplicates_and_long_samples_stop_nothing(tmp_path: Path, check: Any, chat: ChatFormat, encoder: Any) -> None:
    write_samples(tmp_path, [one("a"), one("long " * 300), one("a"), one("a", answer="2) Stop.")])
    checked = check(max_length=200)
    assert checked.lines.tolist() == [1, 3, 4]
    assert (checked.too_long, checked.duplicates) == ([2], 1)
    assert TrainingSet(checked, chat, encoder).place(1).endswith("samples.jsonl:3")
    with pytest.raises(LeapError, match="all 4 samples are longer than model_max_length=3"):
        check(max_length=3)


def test_an_image_is_decoded_again_only_when_its_file_has_changed(tmp_path: Path, check: Any) -> None:
    write_samples(tmp_path, [one("a", "p.png"), one("b", "q.png")])
    draw(tmp_path / "q.png")
    image = draw(tmp_path / "p.png", 200, 70)
    before, kept = image.stat(), image.read_bytes()
    tokens = check().tokens.tolist()
    image.write_bytes(b"x" * before.st_size)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert check().tokens.tolist() == tokens  # nobody looked inside
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    for _ in range(2):  # and a fault is not taken for granted
        with pytest.raises(LeapError, match=r"samples\.jsonl:1: .*p\.png: cannot be decoded"):
            check()
    image.write_bytes(kept)
    assert check().tokens.tolist() == tokens
    draw(image, 90, 70)
    assert check().tokens.tolist() != tokens
    image.unlink()
    with pytest.raises(LeapError, match=r"samples\.jsonl:1: image p\.png: missing"):
        check()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "one byte less": lambda content: content[:-1],
    "a flipped bit": lambda content: content[:300] + bytes([content[300] ^ 4]) + content[301:],
    "no Arrow": lambda content: b"ARROW1" * 100,
    "of an older LEAP": lambda content: content[:-32],
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, check: Any, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path, [one("a", "p.png"), one("b", answer="1) Go. 2) Stop."), one("a", "p.png")])
    draw(tmp_path / "p.png")
    whole = check()
    caches = sorted((tmp_path / "cache").rglob("*.arrow"))
    assert [cache.name.partition("-")[0] for cache in caches] == ["facts", "samples.arrow"]
    for cache in caches:
        content = cache.read_bytes()
        cache.write_bytes(DAMAGES[damage](content))
        found = check()
        assert found.tokens.tolist() == whole.tokens.tolist()
        assert found.repeats.tolist() == whole.repeats.tolist()
        assert f"{cache}: damaged, or of another version of LEAP; it is made again" in capsys.readouterr().err
        assert cache.read_bytes() == content


def test_other_roots_are_other_images(tmp_path: Path, check: Any) -> None:
    for name, width in (("one", 64), ("two", 230)):
        (tmp_path / name).mkdir()
        draw(tmp_path / name / "p.png", width, 60)
    write_samples(tmp_path, [one("a", "p.png")])
    first, second = (check(image_roots=[tmp_path / name]).patches[0] for name in ("one", "two"))
    assert first != second
    with pytest.raises(LeapError, match="two different files match"):
        check(image_roots=[tmp_path / "one", tmp_path / "two"])


def test_bounds_are_applied_to_what_is_cached(
    tmp_path: Path, check: Any, chat: ChatFormat, encoder: ImageEncoder, processor: Any
) -> None:
    write_samples(tmp_path, [one("a", "p.png", "p.png"), one("b", "q.png")])
    draw(tmp_path / "p.png", 300, 300)
    draw(tmp_path / "q.png", 64, 64)
    large = ImageEncoder(processor, ImageSize(16, 64))
    for bounds in (encoder, large):
        checked = check(encoder=bounds)
        samples = TrainingSet(checked, chat, bounds)
        assert checked.tokens.tolist() == [len(samples[0].input_ids), len(samples[1].input_ids)]
    assert len(list((tmp_path / "cache" / "training").glob("*/samples.arrow"))) == 1
    limit = int(check(encoder=large).tokens[1])
    assert check(encoder=large, max_length=limit).too_long == [1]


def test_the_first_usable_samples_are_enough(tmp_path: Path, check: Any) -> None:
    """No fault after them stops a short run, and too long samples do not count among them."""
    draw(tmp_path / "p.png")
    samples = [one("long " * 300), one("a", "p.png"), one("b"), one("c", "p.png"), one("d", "lost.png"), "{"]
    write_samples(tmp_path, samples)
    for count, lines in ((1, [2]), (2, [2, 3]), (3, [2, 3, 4])):
        checked = check(max_length=200, max_samples=count)
        assert checked.lines.tolist() == lines
        assert checked.too_long == [1]
    with pytest.raises(LeapError, match=r":5: .*lost\.png"):
        check(max_length=200, max_samples=4)


def test_another_template_is_another_check(tmp_path: Path, check: Any, model: Path) -> None:
    write_samples(tmp_path, [one("a")])
    other = load_processor(model)
    other.chat_template = other.chat_template.replace("<|im_start|>{{", "<|im_start|>the {{")
    assert check(chat=ChatFormat(other)).tokens[0] > check().tokens[0]


def test_a_changed_file_is_checked_anew(tmp_path: Path, check: Any) -> None:
    write_samples(tmp_path, [one("a")])
    first = check()
    write_samples(tmp_path, [one("a"), one("b")])
    assert (len(first), len(check())) == (1, 2)
    assert first.fingerprint != check().fingerprint


def test_an_image_that_changes_during_training_names_its_sample(
    tmp_path: Path, check: Any, chat: ChatFormat, encoder: ImageEncoder
) -> None:
    write_samples(tmp_path, [one("a"), one("b", "p.png")])
    image = draw(tmp_path / "p.png", 64, 64)
    samples = TrainingSet(check(), chat, encoder)
    draw(image, 300, 70)
    with pytest.raises(LeapError, match=r"samples\.jsonl:2: .* an image has changed since"):
        samples[1]
    image.unlink()
    with pytest.raises(LeapError, match=r"samples\.jsonl:2: image p\.png: missing"):
        samples[1]


def test_many_processes_find_what_one_finds(tmp_path: Path, chat: ChatFormat) -> None:
    samples = [one(f"{index} of {index % 700}", *["p.png"] * (index % 3)) for index in range(900)]
    path = write_samples(tmp_path, [*samples, "{", *samples])
    lines = list(range(1, 1802))
    for world_size in (1, 2):
        result = tmp_path / f"{world_size}.arrow"
        assert list(check_samples(SampleFile(path), SampleReader(LeapSample), chat, world_size, result)) == lines
    assert (tmp_path / "1.arrow").read_bytes() == (tmp_path / "2.arrow").read_bytes()


def kill_itself(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * 2


def test_a_killed_worker_is_an_error(tmp_path: Path) -> None:
    assert list(map_in_order(abs, range(-20, 0), 2)) == list(range(20, 0, -1))
    with pytest.raises(LeapError, match="memory"):
        list(map_in_order(kill_itself, range(8), 2))


def same(one: Sample, other: Sample) -> bool:
    images = one.pixel_values is other.pixel_values is None or torch.equal(one.pixel_values, other.pixel_values)
    return images and (one.input_ids, one.labels) == (other.input_ids, other.labels)


def as_it_is(samples: list[Sample]) -> list[Sample]:
    return samples


@pytest.mark.parametrize("way", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_read_what_the_main_process_reads(
    tmp_path: Path, check: Any, chat: ChatFormat, encoder: ImageEncoder, way: str
) -> None:
    draw(tmp_path / "p.png")
    write_samples(tmp_path, [one(f"question {index}", *["p.png"] * (index % 3)) for index in range(40)])
    samples = TrainingSet(check(), chat, encoder)
    loader = torch.utils.data.DataLoader(
        samples, batch_size=4, num_workers=2, collate_fn=as_it_is, multiprocessing_context=way
    )
    read = [sample for batch in loader for sample in batch]
    assert len(read) == 40
    assert all(same(sample, samples[index]) for index, sample in enumerate(read))


def test_a_pickled_set_leaves_the_samples_on_disk(
    tmp_path: Path, check: Any, chat: ChatFormat, encoder: ImageEncoder
) -> None:
    path = write_samples(tmp_path, [one(f"{index} " + "tidy up. " * 200) for index in range(500)])
    samples = TrainingSet(check(), chat, encoder)
    parts = len(pickle.dumps((chat, encoder)))
    assert len(pickle.dumps(samples)) - parts < path.stat().st_size / 50
    assert same(pickle.loads(pickle.dumps(samples))[499], samples[499])


def test_padded_batches_are_scaled_where_they_are_made(
    tmp_path: Path, check: Any, chat: ChatFormat, encoder: ImageEncoder
) -> None:
    image = draw(tmp_path / "p.png")
    write_samples(tmp_path, [one("a", "p.png"), one("b"), one("c c c", "p.png")])
    samples = TrainingSet(check(), chat, encoder)
    batch = Collator(0, chat.image_token_id, encoder)([samples[index] for index in range(3)])
    patches, grid = encoder.encode([load_image(image)] * 2)
    assert torch.equal(batch["pixel_values"], patches)
    assert torch.equal(batch["image_grid_thw"], grid)


CHECKING = """
import sys
from pathlib import Path
from leap.data.chat_encoding import ChatFormat
from leap.preparation.check.checked_dataset import check_training_file
from leap.data.image import ImageEncoder, ImageSize
from leap.models.loading import load_processor
folder = Path(sys.argv[2])
processor = load_processor(Path(sys.argv[1]))
chat, encoder = ChatFormat(processor), ImageEncoder(processor, ImageSize(4, 9))
print("ready", flush=True)
sys.stdin.readline()
checked = check_training_file(folder / "samples.jsonl", [folder], chat, encoder, 4096, folder / "cache")
print(len(checked), checked.tokens.sum(), flush=True)
"""


@pytest.fixture
def start(tmp_path: Path, model: Path) -> Iterator[Any]:
    """Start a process that checks tmp_path/samples.jsonl once a line is written to it."""
    world_size: list[subprocess.Popen[str]] = []

    def run() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHECKING, str(model), str(tmp_path)]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        world_size.append(subprocess.Popen(command, text=True, **pipes))
        return world_size[-1]

    yield run
    for rank in world_size:
        rank.kill()
        rank.communicate()


@pytest.mark.slow
def test_two_processes_at_once_check_once(tmp_path: Path, start: Any) -> None:
    draw(tmp_path / "p.png")
    write_samples(tmp_path, [one(f"question {index}", "p.png") for index in range(4000)])
    both = [start(), start()]
    for rank in both:
        assert rank.stdout.readline() == "ready\n"
    said = [rank.communicate("go\n", timeout=120) for rank in both]
    assert said[0][0] == said[1][0]
    assert said[0][0].startswith("4000 ")
    assert sum(err.count("checking training samples: 4000 done") for _, err in said) == 1


@pytest.mark.slow
def test_a_killed_check_leaves_nothing_half_made(tmp_path: Path, start: Any, check: Any) -> None:
    write_samples(tmp_path, [one(f"question {index}") for index in range(60_000)])
    rank = start()
    rank.stdin.write("go\n")
    rank.stdin.flush()
    deadline = time.monotonic() + 100
    while not any(path.stat().st_size > 50_000 for path in (tmp_path / "cache").rglob(".*samples.arrow.*")):
        assert rank.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    workers = psutil.Process(rank.pid).children()
    rank.kill()
    assert workers
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert not list((tmp_path / "cache").rglob("samples.arrow"))
    write_samples(tmp_path, [one(f"question {index}") for index in range(60_000)])
    assert len(check()) == 60_000
    assert not list((tmp_path / "cache").rglob("*.tmp"))
