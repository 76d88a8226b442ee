"""The model's own loss and plain generation are what our faster paths must equal; broken weights are refused."""

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from conftest import run_script
from PIL import Image
from safetensors.torch import load_file, save_file

from leap.data.chat_encoding import ChatFormat
from leap.data.collator import Collator
from leap.data.dataset import TrainingSet
from leap.data.image import ImageEncoder, ImageSize
from leap.errors import LeapError
from leap.evaluation.requests import build_requests
from leap.evaluation.settings import EvaluationSettings
from leap.inference.generation import Generation
from leap.inference.hf import HfEngine
from leap.inference.prepare import Prepared
from leap.inference.protocol import Decoding, Request, Response
from leap.models.loading import load_model, load_processor
from leap.preparation.check.checked_dataset import check_training_file
from leap.records.training import Message, TextPart
from leap.training.loop import summed_loss
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples
from leap.vlabench.prompts import leap_instructions

SIZE = ImageSize(4, 9)
EVALUATE = "scripts/evaluation/run_vlm_evaluation.py"
SCORE = "scripts/evaluation/score_predictions.py"
EVALUATED = (
    "--checkpoint models/tiny --dimension semantic --model_name m "
    "--image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 3"
).split()


def test_our_loss_is_the_models_own(workspace: Path, model: Path, tmp_path: Path) -> None:
    """Gathering the label positions before the vocabulary matrix changes nothing."""
    processor = load_processor(model)
    chat, encoder = ChatFormat(processor), ImageEncoder(processor, SIZE)
    data = workspace / "data"
    checked = check_training_file(data / "train_demo.jsonl", [data], chat, encoder, 4096, tmp_path)
    samples = TrainingSet(checked, chat, encoder)
    collator = Collator(processor.tokenizer.pad_token_id, chat.image_token_id, encoder)
    batch = collator([samples[i] for i in range(6)])
    loaded = load_model(model, "float32").eval()
    with torch.no_grad():
        theirs = loaded(**batch).loss
        ours = summed_loss(loaded, dict(batch)) / (batch["labels"] != -100).sum()
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)


@pytest.fixture(scope="module")
def requests(workspace: Path) -> list[Request]:
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    settings = EvaluationSettings(data, leap_instructions(), SIZE, Decoding())
    examples = [example for dimension in DIMENSIONS for example in find_examples(data, dimension)]
    return build_requests(examples, examples, settings)


def responses(engine: HfEngine, requests: Sequence[Request]) -> dict[tuple[str, ...], Response]:
    return {response.key: response for response in engine.responses(requests, Decoding(max_new_tokens=16))}


def texts_of(request: Request) -> tuple[Message, ...]:
    """Its messages without images, each said to be another's."""
    said = TextPart(type="text", text=f" ({request.key})")
    kept = [[part for part in message.parts() if part.type == "text"] for message in request.messages]
    return tuple(
        Message(role=message.role, content=[*parts, said])
        for message, parts in zip(request.messages, kept, strict=True)
    )


def test_batches_answer_as_one_by_one(model: Path, requests: list[Request]) -> None:
    one_by_one = responses(HfEngine(model, SIZE, batch_size=1), requests)
    assert len(one_by_one) == len(requests) == 12
    assert len({response.text for response in one_by_one.values()}) > 1
    for batch_size in (5, 12):
        assert responses(HfEngine(model, SIZE, batch_size=batch_size), requests) == one_by_one


@pytest.mark.parametrize("images", [True, False], ids=["images", "texts"])
def test_rows_that_have_ended_leave_the_batch(
    model: Path, requests: list[Request], images: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends are made of tokens that random weights do write, at other places in each response."""
    if not images:
        requests = [replace(request, messages=texts_of(request), images=()) for request in requests]
    engine = HfEngine(model, SIZE, batch_size=12, workers=0)
    prepared = [engine._preparer.prepare(request) for request in requests]
    loaded, decoding = engine._generation._model, Decoding(max_new_tokens=24)
    written = engine._generation.plain(prepared, decoding)
    places = {token: [row.index(token) for row in written if token in row] for row in written for token in row}
    stop = set(sorted(places, key=lambda token: -len(set(places[token])))[:3])
    generation = Generation(loaded, engine._preparer, stop, min(engine._stop), "cpu", shares=True)

    def ended(tokens: list[int]) -> list[int]:
        return tokens[: next((place for place, token in enumerate(tokens) if token in stop), len(tokens)) + 1]

    rows: list[int] = []
    generate = loaded.generate

    def counted(**inputs: Any) -> torch.Tensor:
        rows.append(len(inputs["input_ids"]))
        return generate(**inputs)

    alone = [ended(generation.plain([one], decoding)[0]) for one in prepared]
    monkeypatch.setattr(loaded, "generate", counted)
    assert [ended(row) for row in generation.plain(prepared, decoding)] == alone
    assert len({len(tokens) for tokens in alone}) > 3
    assert rows[0] == 12
    assert rows[1] <= 6
    assert rows == sorted(set(rows), reverse=True)


def test_a_fixed_cache_answers_as_a_growing_one(model: Path, requests: list[Request]) -> None:
    """Batches of one shape: the last, smaller one is filled up, and the cache keeps nothing of the batch before."""
    engine = HfEngine(model, SIZE, batch_size=5)
    expected = responses(engine, requests)
    engine._compiled = True  # the same path without a compiler, which a GPU alone has
    assert responses(engine, requests) == expected
    assert responses(engine, requests[:2]) == {request.key: expected[request.key] for request in requests[:2]}


def test_workers_prepare_the_same(model: Path, requests: list[Request], tmp_path: Path) -> None:
    broken = replace(requests[3], key=("broken",), images=(tmp_path / "missing.png", *requests[3].images[1:]))
    again = [replace(request, key=(*request.key, "again")) for request in requests * 2]
    mixed = [*requests[:3], broken, *requests[3:], *again]  # work for two
    alone, helped = (HfEngine(model, SIZE, batch_size=4, workers=workers) for workers in (0, 2))
    before = psutil.Process().children()
    stream = helped.responses(mixed, Decoding(max_new_tokens=2))
    found = [next(stream)]
    assert len({*psutil.Process().children()}.difference(before)) == 2
    found += stream
    assert found == [*alone.responses(mixed, Decoding(max_new_tokens=2))]
    assert [response.key for response in found if response.error] == [("broken",)]
    assert [*helped.responses([], Decoding())] == []  # a rank's share of few


PREPARING = """
import sys
from pathlib import Path
from leap.data.image import ImageSize
from leap.inference.prepare import find_preparer, prepare_ahead
from leap.inference.protocol import Request
from leap.models.loading import load_processor
from leap.records.training import ImagePart, Message
image = Path(sys.argv[2])
content = [ImagePart(type="image", image=str(image))]
requests = [Request((str(n),), (Message(role="user", content=content),), (image,)) for n in range(99)]
preparer = find_preparer(load_processor(Path(sys.argv[1])), ImageSize(900, 900))
stream = prepare_ahead(preparer, requests, 1)
next(stream)
print("first", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_workers_end_with_a_killed_process(model: Path, requests: list[Request]) -> None:
    command = [sys.executable, "-c", PREPARING, str(model), str(requests[0].images[0])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"first\n"
        workers = psutil.Process(parent.pid).children()
        assert workers
        parent.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]


def test_out_of_memory_halves_the_batch_and_loses_nothing(
    model: Path, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = HfEngine(model, SIZE, batch_size=12)
    expected, generation = responses(engine, requests), engine._generation
    plain = generation.plain
    sizes: list[int] = []

    def cramped(batch: list[Any], decoding: Decoding) -> list[list[int]]:
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("no room")
        return plain(batch, decoding)

    monkeypatch.setattr(generation, "plain", cramped)
    assert responses(engine, requests) == expected
    assert sizes == [12, 6, 3, 3, 6, 3, 3]
    assert responses(engine, requests) == expected
    assert sizes[7:] == [3, 3, 3, 3]  # what did not fit is not tried again
    monkeypatch.setattr(generation, "plain", lambda batch, decoding: cramped(batch * 4, decoding))
    (response,) = engine.responses(requests[:1], Decoding(max_new_tokens=2))
    assert response.text is None
    assert "out of memory" in str(response.error)


def test_where_not_even_the_measuring_fits_one_row_is_tried(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def cramped(*_: object) -> int:
        raise torch.OutOfMemoryError("no room")

    engine = HfEngine(model, SIZE)
    monkeypatch.setattr(engine, "_device", "cuda")
    monkeypatch.setattr(engine._generation, "rows_that_fit", cramped)
    assert engine._find_rows(Prepared((), []), Decoding()) == 1


def test_replaced_parts_compute_the_same(model: Path, requests: list[Request], tmp_path: Path) -> None:
    """The vision tower's, against the library's own: images of one size, and of several."""
    plain, fast = (HfEngine(model, SIZE, batch_size=4) for _ in range(2))
    for module in plain._generation._model.model.visual.modules():
        module.__dict__.pop("forward", None)
    path = tmp_path / "small.png"
    Image.new("RGB", (96, 64), (200, 30, 60)).save(path)
    mixed = [*requests[:3], replace(requests[3], images=(path, requests[3].images[1]))]
    assert responses(fast, requests[:4]) == responses(plain, requests[:4])
    assert responses(fast, mixed) == responses(plain, mixed)


def test_missing_and_misshapen_weights_are_refused(model: Path, tmp_path: Path) -> None:
    """The library would fill them with random numbers, and the scores would look like any others."""
    for name, spoil in (
        ("missing", lambda weights: {k: v for k, v in weights.items() if "layers.1" not in k}),
        ("misshapen", lambda weights: {k: v[:-1] if k.endswith("norm.weight") else v for k, v in weights.items()}),
    ):
        folder = Path(shutil.copytree(model, tmp_path / name))
        weights = spoil(load_file(folder / "model.safetensors"))
        save_file({k: v.contiguous() for k, v in weights.items()}, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(LeapError, match=name):
            load_model(folder, "float32")


@pytest.fixture(scope="module")
def once(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluated there, with paths of there in its manifest: a copy is what a workspace is that was moved."""
    root = tmp_path_factory.mktemp("once") / "demo"
    for part in ("dataset", "models/tiny"):
        shutil.copytree(workspace / part, root / part)
    assert run_script(EVALUATE, *EVALUATED, root=root).returncode == 0
    return root


@pytest.fixture
def evaluated(once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(once, tmp_path / "demo"))


def test_changed_data_is_refused_and_fresh_archives_what_was_there(evaluated: Path) -> None:
    folder = evaluated / "eva_results" / "Semantic" / "m"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    instruction = next((evaluated / "dataset").glob("*/Semantic/*/example0/input/instruction.txt"))
    instruction.write_text("Lift the milk.")
    refused = run_script(EVALUATE, *EVALUATED, root=evaluated)
    assert refused.returncode == 1
    assert "1 of its answers" in refused.stderr
    assert "--fresh" in refused.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert run_script(EVALUATE, *EVALUATED, "--fresh", root=evaluated).returncode == 0
    (archived,) = (evaluated / "backup_eva_results").glob("*/Semantic/m")
    assert {path.name: path.read_bytes() for path in archived.iterdir()} == before
    assert {path.name for path in folder.iterdir()} == before.keys()
    assert (folder / "predictions.jsonl").read_bytes() != before["predictions.jsonl"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("--max_new_tokens 4", "max_new_tokens"),
        ("--dtype bfloat16", "dtype"),
        ("--language zh --model_name m", "prompt"),
        ("--few_shot_num 1 --model_name m", "few_shot"),
        ("--image_tokens_max 8", "image_tokens"),
    ],
)
def test_a_changed_setting_is_refused(evaluated: Path, change: str, named: str) -> None:
    """The name m_zh is another; one that is given stands for itself."""
    manifest = evaluated / "eva_results" / "Semantic" / "m" / "manifest.json"
    suffix = {"prompt": "_zh", "few_shot": "_1shot"}.get(named, "")
    if suffix:
        shutil.copytree(manifest.parent, manifest.parent.with_name(f"m{suffix}"))
    refused = run_script(EVALUATE, *EVALUATED, *change.split(), root=evaluated)
    assert refused.returncode == 1
    assert named in refused.stderr
    assert "--fresh" in refused.stderr


def test_a_model_is_its_chat_template_tokenizer_and_configs_too(evaluated: Path) -> None:
    model = evaluated / "models" / "tiny"
    manifest = evaluated / "eva_results" / "Semantic" / "m" / "manifest.json"
    files = json.loads(manifest.read_text())["model"]["files"]
    assert {"config.json", "generation_config.json", "tokenizer.json", "chat_template.jinja"} <= files.keys()
    assert any("processor" in name for name in files)
    assert not {"model.safetensors", "leap_run.json"} & files.keys()
    for name in [*files, "additional_chat_templates/tool.jinja", "vocab.json", "modeling_own.py"]:
        path = model / name
        before = path.read_bytes() if path.is_file() else None
        path.parent.mkdir(exist_ok=True)
        path.write_bytes((before or b"{}") + b" ")
        refused = run_script(EVALUATE, *EVALUATED, root=evaluated)
        assert refused.returncode == 1
        (line,) = refused.stderr.splitlines()
        assert f"{name} of the model has changed" in line
        path.unlink() if before is None else path.write_bytes(before)
    (model / "README.md").write_text("A card changes no answer.")
    assert run_script(EVALUATE, *EVALUATED, root=evaluated).returncode == 0


def test_another_scorer_is_refused(evaluated: Path) -> None:
    path = evaluated / "eva_results" / "Semantic" / "m" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, "scorer": {"name": "vlabench", "vlabench": "0"}}))
    refused = run_script(EVALUATE, *EVALUATED, root=evaluated)
    assert refused.returncode == 1
    assert "scored otherwise" in refused.stderr
    assert "score_predictions.py" in refused.stderr


def test_a_folder_that_another_process_holds_is_refused(evaluated: Path) -> None:
    folder = evaluated / "eva_results" / "Semantic" / "m"
    hold = "import sys, time; from pathlib import Path; from leap.records.locks import FolderLock\n"
    hold += "with FolderLock(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", hold, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for script, arguments in ((EVALUATE, EVALUATED), (SCORE, ["eva_results"])):
            refused = run_script(script, *arguments, root=evaluated)
            assert refused.returncode == 1
            assert f"process {other.pid} on" in refused.stderr
        other.kill()
    assert run_script(EVALUATE, *EVALUATED, root=evaluated).returncode == 0  # the lock ended with its process
    assert not (folder / ".lock").exists()


def test_a_smaller_run_does_not_shrink_a_result(evaluated: Path) -> None:
    assert run_script(EVALUATE, *EVALUATED, "--num_episodes", "1", root=evaluated).returncode == 0
    (task,) = json.loads((evaluated / "eva_results" / "Semantic" / "m" / "final_score.json").read_text()).values()
    assert set(task) == {"0", "1"}


def test_scoring_again_keeps_where_the_answers_come_from(evaluated: Path) -> None:
    path = evaluated / "eva_results" / "Semantic" / "m" / "manifest.json"
    first = json.loads(path.read_text())
    assert run_script(EVALUATE, *EVALUATED, "--batch_size", "7", root=evaluated).returncode == 0
    again = json.loads(path.read_text())
    (session,) = again["inference"]
    assert again["inference"] == first["inference"]
    assert session["command"] == first["command"] != again["command"]
    assert session["versions"]["torch"] == first["versions"]["torch"]


def test_a_run_that_asks_nothing_leaves_the_results_as_they_are(evaluated: Path) -> None:
    folder = evaluated / "eva_results" / "Semantic" / "m"

    def state() -> dict[str, tuple[bytes, int]]:
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}

    assert run_script(EVALUATE, *EVALUATED, root=evaluated).returncode == 0  # its model lies elsewhere now
    before = state()
    assert run_script(EVALUATE, *EVALUATED, root=evaluated).returncode == 0
    assert state() == before
    ended = json.loads(before["manifest.json"][0])["end"]
    assert run_script(EVALUATE, *EVALUATED, "--batch_size", "7", root=evaluated).returncode == 0
    assert json.loads((folder / "manifest.json").read_text())["end"] == ended


def test_an_interrupted_larger_run_does_not_look_complete(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = evaluated / "eva_results" / "Semantic" / "m" / "manifest.json"
    shutil.rmtree(path.parent)
    assert run_script(EVALUATE, *EVALUATED, "--num_episodes", "1", root=evaluated).returncode == 0
    assert json.loads(path.read_text())["status"] == "complete"

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Generation, "plain", interrupted)
    assert run_script(EVALUATE, *EVALUATED, root=evaluated).returncode == 130
    assert json.loads(path.read_text())["status"] == "running"
    scored = run_script(SCORE, "eva_results", root=evaluated)
    assert scored.returncode == 0, scored.stderr
    manifest = json.loads(path.read_text())
    assert (manifest["status"], manifest["counts"]["missing"]) == ("incomplete", 1)


def test_one_name_is_one_model_over_all_dimensions(evaluated: Path) -> None:
    weights = load_file(evaluated / "models" / "tiny" / "model.safetensors")
    save_file({k: v + 0.01 for k, v in weights.items()}, evaluated / "models/tiny/model.safetensors", {"format": "pt"})
    refused = run_script(EVALUATE, *EVALUATED, "--dimension", "spatial", root=evaluated)
    assert refused.returncode == 1
    assert "weights" in refused.stderr
    assert not (evaluated / "eva_results" / "Spatial" / "m").exists()


@pytest.mark.parametrize(
    "line",
    [
        "--dimension baseline --checkpoint models/tiny",
        "--dimension all nonsense",
        "--batch_mode --checkpoint models/tiny",
        "--skip_baseline",
        "--max_new_tokens None",
        "--num_episodes 0",
        "--checkpoint models/tiny --model_name a/b",
        "--checkpoint models/tiny --device nonsense",
    ],
)
def test_contradictory_flags_are_wrong_usage(workspace: Path, line: str) -> None:
    done = run_script(EVALUATE, *line.split(), root=workspace)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
