"""One engine for model after model: its responses are those of an engine of each model's own, in any order."""

import asyncio
import gc
import json
import shutil
import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, run_script
from safetensors.torch import load_file, save_file
from test_engine import EVALUATE, SIZE, requests, responses
from test_vllm_adapter import LLM, make_adapter
from test_vllm_server import flags, make_interpreter, on_cpu, settings

from leap.data.image import load_image
from leap.errors import LeapError
from leap.evaluation.evaluate import evaluate_models, in_this_process
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings
from leap.inference.beside_vllm.vllm_key import EveryAddressWantsTheKey
from leap.inference.engines import EngineOfSweep, EngineOptions, ModelToOpen
from leap.inference.generation import Generation
from leap.inference.hf import HfEngine
from leap.inference.prepare import Prepared
from leap.inference.protocol import Decoding, Request, Response, request_hash
from leap.inference.vllm import VllmEngine
from leap.inference.vllm_server import _environment, build_command
from leap.records.training import Message, TextPart
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.prompts import leap_instructions

__all__ = ["requests"]  # a fixture that tests here use
PIXELS = {"shortest_edge": 4096, "longest_edge": 9216}
TEXTS = Decoding(max_new_tokens=16)


def changed(model: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """The model with other weights."""
    copied = Path(shutil.copytree(model, folder))
    weights = load_file(copied / "model.safetensors")
    change(weights)
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    return copied


def scaled(factor: float) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(weights: dict[str, torch.Tensor]) -> None:
        for name in weights:
            if name.endswith(("down_proj.weight", "linear_fc2.weight", "patch_embed.proj.weight")):
                weights[name] = weights[name] * factor

    return change


@pytest.fixture(scope="module")
def checkpoints(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two of one run; the older one's weights are in bfloat16, as a run leaves them that keeps few whole ones."""
    run = tmp_path_factory.mktemp("run")
    one = changed(model, run / "checkpoint-1", scaled(-3))
    weights = load_file(one / "model.safetensors")
    halved = {name: tensor.bfloat16() for name, tensor in weights.items()}
    save_file(halved, one / "model.safetensors", {"format": "pt"})
    config = json.loads((one / "config.json").read_text())
    (one / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return one, changed(model, run / "checkpoint-2", scaled(2))


@pytest.fixture(scope="module")
def alone(
    model: Path, checkpoints: tuple[Path, Path], requests: list[Request]
) -> dict[Path, dict[tuple[str, ...], Response]]:
    """What each of the three answers in an engine of its own."""
    folders = (model, *checkpoints)
    found = {folder: responses(HfEngine(folder, SIZE, batch_size=5, workers=0), requests) for folder in folders}
    assert all(found[one] != found[other] for one in found for other in found if one is not other)
    return found


def those_to(requests: Sequence[Request], found: dict[tuple[str, ...], Response]) -> dict[tuple[str, ...], Response]:
    return {request.key: found[request.key] for request in requests}


def in_turn(engine: Any, folders: Iterable[Path], requests: Sequence[Request], base: Path | None = None) -> list[Any]:
    """The responses of each model; the engine has the first."""
    found = []
    for number, folder in enumerate(folders):
        assert number == 0 or engine.load(folder, base) is None
        found.append({response.key: response for response in engine.responses(requests, TEXTS)})
    return found


@pytest.mark.parametrize("fixed", [False, True], ids=["growing cache", "fixed cache"])
def test_checkpoints_answer_as_by_themselves(alone: dict[Path, Any], requests: list[Request], fixed: bool) -> None:
    """Each after each of the others."""
    order = [[*alone][index] for index in (0, 1, 2, 0, 2, 1, 0)]
    engine = HfEngine(order[0], SIZE, batch_size=5, keep=10**9)
    engine._compiled = fixed
    assert in_turn(engine, order, requests) == [alone[folder] for folder in order]


def test_adapters_on_one_base(model: Path, tmp_path: Path, requests: list[Request]) -> None:
    one, _ = make_adapter(model, tmp_path, LLM)
    other = Path(shutil.copytree(one, tmp_path / "other"))
    weights = load_file(one / "adapter_model.safetensors")
    save_file({name: -2 * tensor for name, tensor in weights.items()}, other / "adapter_model.safetensors")
    expected = [responses(HfEngine(folder, SIZE, base=model, workers=0), requests) for folder in (one, other)]
    assert expected[0] != expected[1]
    engine = HfEngine(one, SIZE, base=model, workers=0)
    assert in_turn(engine, [one, other, one], requests, model) == [*expected, expected[0]]
    assert engine.load(model, None) == "its base differs"
    louder = Path(shutil.copytree(one, tmp_path / "louder"))
    config = json.loads((louder / "adapter_config.json").read_text())
    (louder / "adapter_config.json").write_text(json.dumps({**config, "lora_alpha": 9}))
    assert HfEngine(one, SIZE, base=model, workers=0).load(louder, model) == "its adapter_config.json differs"


@pytest.mark.parametrize("file", ["config.json", "chat_template.jinja", "tokenizer.json", "generation_config.json"])
def test_what_differs_in_more_than_weights_is_not_taken(model: Path, tmp_path: Path, file: str) -> None:
    other = Path(shutil.copytree(model, tmp_path / "other"))
    text = (other / file).read_text()
    (other / file).write_text(json.dumps({**json.loads(text), "own": 1}) if file.endswith(".json") else f"{text} ")
    engine = HfEngine(model, SIZE, workers=0)
    assert engine.load(other, None) == f"its {file} differs"


def test_each_model_has_its_own_number_of_requests(model: Path, tmp_path: Path) -> None:
    """By which an engine chooses whether it compiles."""
    to_open = ModelToOpen(model, None, SIZE, "cpu", "float32", None, tmp_path / "log")
    with EngineOfSweep(EngineOptions("hf", {"workers": 0})) as sweep:
        for expected in (3, 5000):
            with sweep.holding(replace(to_open, expected=expected)) as engine:
                assert isinstance(engine, HfEngine)
                assert engine._expected == expected


def test_tensors_that_are_not_the_models_own_are_not_taken(model: Path, tmp_path: Path) -> None:
    def drop(weights: dict[str, torch.Tensor]) -> None:
        del weights["model.language_model.layers.1.mlp.up_proj.weight"]

    def cut(weights: dict[str, torch.Tensor]) -> None:
        weights["model.visual.pos_embed.weight"] = weights["model.visual.pos_embed.weight"][:-1].clone()

    def double(weights: dict[str, torch.Tensor]) -> None:
        weights["lm_head.weight"] = weights["model.language_model.embed_tokens.weight"].clone()

    for change in (drop, cut, double):
        other = changed(model, tmp_path / change.__name__, change)
        assert HfEngine(model, SIZE, workers=0).load(other, None) == "its tensors have other names or shapes"
    short = changed(model, tmp_path / "short", scaled(2))
    whole = (short / "model.safetensors").read_bytes()
    (short / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LeapError, match=r"short/model\.safetensors: its tensors cannot be read"):
        HfEngine(model, SIZE, workers=0).load(short, None)


def test_images_are_prepared_once_for_all_models(
    model: Path, checkpoints: tuple[Path, Path], requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Any] = []

    def counted(source: Any) -> Any:
        read.append(source)
        return load_image(source)

    monkeypatch.setattr("leap.inference.prepare.load_image", counted)
    shown = sum(len(request.images) for request in requests)
    missing = replace(requests[0], key=("gone",), images=(Path("/gone.png"), *requests[0].images[1:]))
    engine = HfEngine(model, SIZE, workers=0, keep=10**9)
    found = in_turn(engine, [model, *checkpoints], [*requests, missing])
    assert len(read) == shown + 3  # the missing one is looked for each time
    assert all("missing" in str(one[("gone",)].error) for one in found)
    again = replace(requests[0], key=("asked", "again"))
    assert responses(engine, [again])[again.key].text == found[-1][requests[0].key].text
    assert len(read) == shown + 3
    read.clear()
    in_turn(HfEngine(model, SIZE, workers=0), [model, *checkpoints], requests)
    assert len(read) == 3 * shown
    read.clear()
    one = sum(array.nbytes for array in engine._preparer.prepare(requests[0]).arrays.values()) + 8 * 4096
    in_turn(HfEngine(model, SIZE, workers=0, keep=one), [model, *checkpoints], requests)
    assert 2 * shown < len(read) - len(requests[0].images) < 3 * shown  # there was room for one or a few


def test_an_engine_stays_where_the_next_model_fits_into_it(
    model: Path,
    checkpoints: tuple[Path, Path],
    alone: dict[Path, Any],
    requests: list[Request],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    odd = Path(shutil.copytree(model, tmp_path / "odd"))
    (odd / "chat_template.jinja").write_text((odd / "chat_template.jinja").read_text() + "{# other #}")
    engines: list[Any] = []
    with EngineOfSweep(EngineOptions("hf", {"workers": 0})) as sweep:
        for folder in (model, checkpoints[0], odd, checkpoints[1]):
            with sweep.holding(ModelToOpen(folder, None, SIZE, "cpu", "float32", None, tmp_path / "log")) as engine:
                engines.append(engine)
                expected = alone[model if folder is odd else folder]  # the odd one's template says the same
                assert responses(engine, requests[:3]) == those_to(requests[:3], expected)
        with (
            pytest.raises(LeapError, match="by itself"),
            sweep.holding(ModelToOpen(model, None, SIZE, "cpu", "float32", None, tmp_path / "log")),
        ):
            raise LeapError("by itself")
    assert engines[0] is engines[1]
    assert engines[1] is not engines[2] is not engines[3]
    # for the odd one, and after it
    assert capsys.readouterr().out.count("the engine starts anew (its chat_template.jinja differs)") == 2


def test_a_model_that_cannot_be_read_leaves_the_engine(
    model: Path, checkpoints: tuple[Path, Path], alone: dict[Path, Any], requests: list[Request], tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(checkpoints[0], tmp_path / "broken"))
    (broken / "model.safetensors").write_bytes(b"no weights")

    def opened(folder: Path) -> ModelToOpen:
        return ModelToOpen(folder, None, SIZE, "cpu", "float32", None, tmp_path / "log")

    with EngineOfSweep(EngineOptions("hf", {"workers": 0})) as sweep:
        with sweep.holding(opened(model)) as engine:
            assert responses(engine, requests[:3]) == those_to(requests[:3], alone[model])
        with (
            pytest.raises(LeapError, match=r"broken/model\.safetensors: its tensors cannot be read"),
            sweep.holding(opened(broken)),
        ):
            pass
        with sweep.holding(opened(model)) as again:
            assert again is engine
            assert responses(again, requests[:3]) == those_to(requests[:3], alone[model])


def test_a_model_that_is_gone_does_not_keep_the_next_one_out(
    model: Path, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    first = Path(shutil.copytree(model, tmp_path / "first"))
    engine = HfEngine(first, SIZE, workers=0)
    shutil.rmtree(first)
    assert engine.load(checkpoints[0], None) == "the model before it cannot be read any more"


def test_weights_that_break_off_while_they_are_copied_cost_the_engine(
    model: Path, checkpoints: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in memory then is neither model."""
    engine = HfEngine(model, SIZE, workers=0)
    get = torch.Tensor.copy_
    copied: list[None] = []

    def breaking(own: torch.Tensor, stored: torch.Tensor) -> torch.Tensor:
        copied.append(None)
        if len(copied) > 3:
            raise OSError("Input/output error")
        return get(own, stored)

    monkeypatch.setattr(torch.Tensor, "copy_", breaking)
    assert "its tensors cannot be read" in str(engine.load(checkpoints[0], None))


def test_failed_models_leave_no_engine_in_memory(workspace: Path, model: Path, tmp_path: Path) -> None:
    """The errors are kept to the sweep's end; the engines that they came from are not."""
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    settings = EvaluationSettings(data, leap_instructions(), SIZE, Decoding(max_new_tokens=2))
    engines: weakref.WeakSet[Any] = weakref.WeakSet()

    class Failing(HfEngine):
        def responses(self, requests: Sequence[Request], decoding: Decoding) -> Generator[Response, None, None]:
            yield next(super().responses(requests, decoding))
            raise LeapError("the device is lost") from RuntimeError("CUDA error")

    def load(_: EvaluatedModel) -> Any:
        engines.add(engine := Failing(model, SIZE, workers=0))
        return closing(engine)

    models = [partial(EvaluatedModel, name, model, weights=name) for name in ("one", "two", "three")]
    answered = in_this_process(load, settings)
    _, failed = evaluate_models(models, DIMENSIONS[:1], settings, answered, tmp_path, REPOSITORY)
    assert [str(error) for error in failed] == ["the device is lost"] * 3
    gc.collect()
    assert len(engines) == 0


def test_what_was_asked_of_a_model_decides_nothing_for_the_next(
    model: Path, alone: dict[Path, Any], requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that compiling paid, nor that its batches had to be smaller."""
    monkeypatch.setattr(Generation, "obstacle", None)
    monkeypatch.setattr("leap.inference.generation.compile_parts", lambda _: None)
    engine = HfEngine(model, SIZE, batch_size=4, workers=0)
    engine._worth_compiling = 2
    fixed, generate = [], engine._generation.compiled

    def counted(batch: Sequence[Prepared], decoding: Decoding, rows: int) -> list[list[int]]:
        fixed.append(len(batch))
        if len(fixed) == 1:
            raise torch.OutOfMemoryError("no room")
        return generate(batch, decoding, rows)

    monkeypatch.setattr(engine._generation, "compiled", counted)
    other = [*alone][1]
    responses(engine, requests[:8])
    assert fixed == [4, 2, 2, 2, 2]
    assert engine.load(other, None) is None
    assert responses(engine, requests[:3]) == those_to(requests[:3], alone[other])
    assert len(fixed) == 5
    responses(engine, requests[:8])
    assert fixed[5:] == [4, 4]


def test_only_the_same_request_has_the_same_images_prepared(model: Path, requests: list[Request]) -> None:
    """Texts as (parts of) texts, roles and image places that `request_hash` takes for the same."""
    engine = HfEngine(model, SIZE, workers=0, keep=10**9)

    def said(*texts: str) -> Request:
        parts = [TextPart(type="text", text=text) for text in texts]
        return Request((*texts,), (Message(role="user", content=parts),), ())

    pair = [said("Lift it.\0Put it down."), said("Lift it.", "Put it down.")]
    assert request_hash(pair[0]) == request_hash(pair[1])
    alone = [engine._preparer.prepare(request).ids for request in pair]
    assert alone[0] != alone[1]
    assert [made.ids for made in engine._prepared.ahead(pair)] == alone  # type: ignore[union-attr]
    assert [made.ids for made in engine._prepared.ahead(pair)] == alone  # type: ignore[union-attr]


def results(root: Path) -> dict[str, bytes]:
    kept = ("predictions.jsonl", "final_score.json", "diagnosis.jsonl")
    folder = root / "eva_results"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.json*") if path.name in kept}


def test_a_sweep_leaves_what_separate_commands_leave(
    workspace: Path, checkpoints: tuple[Path, Path], tmp_path: Path
) -> None:
    """And a checkpoint that is broken takes neither of the others along."""
    roots = []
    for name in ("swept", "apart"):
        roots.append(tmp_path / name)
        for part in ("dataset", "models/tiny"):
            shutil.copytree(workspace / part, tmp_path / name / part)
        for folder in checkpoints:
            shutil.copytree(folder, tmp_path / name / "output" / folder.name)
    swept, apart = roots
    options = "--baseline_model models/tiny --image_tokens_min 4 --image_tokens_max 9 --max_new_tokens 12".split()
    broken = Path(shutil.copytree(checkpoints[0], swept / "output" / "checkpoint-0"))
    (broken / "model.safetensors").write_bytes(b"no weights")
    done = run_script(EVALUATE, "--batch_mode", *options, root=swept)
    assert done.returncode == 1
    assert "NOT EVALUATED" in done.stderr
    assert "checkpoint-0/model.safetensors: its tensors cannot be read" in done.stderr
    for number in (2, 1):
        model = ("--checkpoint", f"output/checkpoint-{number}")
        assert run_script(EVALUATE, *model, *options, root=apart).returncode == 0
    assert run_script(EVALUATE, "--dimension", "baseline", *options, root=apart).returncode == 0
    found = results(swept)
    assert {name: content for name, content in found.items() if "checkpoint-0" not in name} == results(apart)
    assert len(results(apart)) == 3 * 3 * 6


# --- vLLM


def test_a_server_of_several_models_takes_weights_and_wants_the_key_for_it(checkpoints: tuple[Path, Path]) -> None:
    one, other = checkpoints
    several = settings(model=one, others=(other,))
    command = build_command("python", several, 8123, PIXELS, cores=2)
    assert flags(command)["--middleware"] == "vllm_key.EveryAddressWantsTheKey"
    assert _environment(several)["VLLM_SERVER_DEV_MODE"] == "1"
    assert (Path(_environment(several)["PYTHONPATH"].split(":")[0]) / "vllm_key.py").is_file()
    for alone in (settings(model=one), replace(several, extra=("--quantization", "fp8")), replace(several, lora=one)):
        assert not alone.exchanges
        assert "VLLM_SERVER_DEV_MODE" not in _environment(alone)
    assert replace(several, extra=("--max-num-seqs", "64")).exchanges
    assert not replace(several, device="cpu").exchanges  # its embeddings are its head


def test_a_server_on_a_cpu_takes_weights_of_an_untied_head_alone(model: Path, tmp_path: Path) -> None:
    own_head = untied(model, tmp_path / "untied", 2.0)
    several = settings(model=own_head, others=(model,), device="cpu")
    assert several.exchanges
    config = json.loads((own_head / "config.json").read_text())
    tied = {**config["text_config"], "tie_word_embeddings": True}
    for change in ({"tie_word_embeddings": True}, {"text_config": tied}, {"quantization_config": {"bits": 8}}):
        (own_head / "config.json").write_text(json.dumps({**config, **change}))
        assert not several.exchanges
    assert not replace(several, device="cuda").exchanges  # quantized
    (own_head / "config.json").write_text(json.dumps({**config, **change, "quantization_config": None}))
    assert replace(several, device="cuda").exchanges


def test_a_manifest_says_which_model_the_server_began_with(
    model: Path, checkpoints: tuple[Path, Path], requests: list[Request], tmp_path: Path
) -> None:
    python = make_interpreter(tmp_path / "environment")
    started = settings(model=model, images=SIZE, device="cpu", dtype="float32", others=checkpoints[:1])
    with closing(VllmEngine(started, tmp_path / "log", python)) as engine:
        assert all(response.text for response in engine.responses(requests[:1], Decoding(8)))
        described = engine.describe()
        assert str(model) in described["server_started_with"]
        assert (described["weights"], "command" in described) == (str(model), False)


def test_a_server_has_all_adapters_that_fit(model: Path, tmp_path: Path) -> None:
    one, _ = make_adapter(model, tmp_path, LLM)
    other = Path(shutil.copytree(one, tmp_path / "other"))
    odd, _ = make_adapter(model, tmp_path / "odd", LLM[:1])
    broken = Path(shutil.copytree(one, tmp_path / "broken"))
    (broken / "adapter_model.safetensors").write_bytes(b"no weights")
    several = settings(model=model, lora=one, others=(odd, broken, one, other))
    assert several.adapters() == {one: "leap", other: "leap-1"}
    command = build_command("python", several, 8123, PIXELS, cores=2)
    place = command.index("--lora-modules")
    assert command[place + 1 : place + 3] == [f"leap={one}", f"leap-1={other}"]
    assert "--middleware" not in command


def test_every_address_wants_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "secret")

    async def vllm(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def status(path: str, key: str | None) -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"host", b"localhost")] + ([(b"authorization", f"Bearer {key}".encode())] if key else [])
        scope = {"type": "http", "path": path, "headers": headers}
        asyncio.run(EveryAddressWantsTheKey(vllm)(scope, None, send))
        return int(sent[0]["status"])

    for path in ("/collective_rpc", "/v1/models", "/", "/health/x"):
        assert [status(path, key) for key in (None, "other", "secret")] == [401, 401, 200]
    assert status("/health", None) == 200


def untied(folder: Path, copied: Path, factor: float) -> Path:
    """The model with a head of its own."""
    shutil.copytree(folder, copied)
    weights = load_file(copied / "model.safetensors")
    weights["lm_head.weight"] = factor * weights["model.language_model.embed_tokens.weight"].float()
    save_file(weights, copied / "model.safetensors", {"format": "pt"})
    config = json.loads((copied / "config.json").read_text())
    text = {**config["text_config"], "tie_word_embeddings": False}
    (copied / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False, "text_config": text}))
    return copied


@pytest.mark.slow
def test_a_real_server_answers_for_checkpoints_as_by_themselves(
    checkpoints: tuple[Path, Path], requests: list[Request], tmp_path: Path
) -> None:
    """What a server says of its first model has nothing to do with the others: it is what all are compared with."""
    one, other = (
        untied(folder, tmp_path / folder.name, factor) for folder, factor in zip(checkpoints, (1, -1.5), strict=True)
    )
    found = []
    for first, second in ((one, other), (other, one)):
        with closing(VllmEngine(on_cpu(first, others=(second,), api_servers=2), tmp_path / "log")) as engine:
            found.append(in_turn(engine, [first, second, first], requests))
            assert engine.describe()["weights"] == str(first)
    assert found[0] == [found[1][1], found[1][0], found[1][1]]
    assert found[0][0] != found[0][1]


@pytest.mark.slow
def test_a_real_server_answers_for_adapters_as_by_themselves(
    model: Path, requests: list[Request], tmp_path: Path
) -> None:
    one, _ = make_adapter(model, tmp_path, LLM)
    other = Path(shutil.copytree(one, tmp_path / "other"))
    weights = load_file(one / "adapter_model.safetensors")
    save_file({name: -2 * tensor for name, tensor in weights.items()}, other / "adapter_model.safetensors")
    found = []
    for first, second in ((one, other), (other, one)):
        with closing(VllmEngine(on_cpu(model, lora=first, others=(second,)), tmp_path / "log")) as engine:
            found.append(in_turn(engine, [first, second, first], requests, model))
    assert found[0] == [found[1][1], found[1][0], found[1][1]]
    assert found[0][0] != found[0][1]
