"""A LoRA adapter is served unmerged, beside its base, and answers as the merged model does. Slow: real servers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from test_engine import SIZE, responses
from test_families import one_thread
from test_vllm_server import ask, content, flags, on_cpu, settings

from leap.errors import LeapError
from leap.evaluation.requests import build_requests
from leap.evaluation.settings import EvaluationSettings
from leap.inference.hf import HfEngine
from leap.inference.protocol import Decoding
from leap.inference.vllm_server import VllmServer, VllmSettings, build_command
from leap.models.loading import load_model, load_processor
from leap.vlabench.dimensions import DIMENSIONS
from leap.vlabench.examples import find_examples
from leap.vlabench.prompts import leap_instructions

LLM = ["q_proj", "v_proj", "down_proj"]
IMAGES = ["qkv", "linear_fc1", "linear_fc2"]  # of the vision tower, and of the mergers behind it
__all__ = ["one_thread"]  # a fixture that every test here uses


def make_adapter(base: Path, folder: Path, targets: list[str], **changed: object) -> tuple[Path, Path]:
    """An adapter with weights that change responses, and the model that it makes of its base."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    chosen = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **changed)
    adapted = get_peft_model(load_model(base, "float32"), chosen)
    adapted.save_pretrained(folder / "adapter")
    adapted.merge_and_unload().save_pretrained(folder / "merged")
    load_processor(base).save_pretrained(folder / "merged")
    return folder / "adapter", folder / "merged"


def test_a_server_takes_weights_beside_the_llms(model: Path, tmp_path: Path) -> None:
    pixels = {"shortest_edge": 4096, "longest_edge": 9216}
    for name, targets in (("llm", LLM), ("images", [*LLM, *IMAGES])):
        lora, _ = make_adapter(model, tmp_path / name, targets)
        command = build_command("python", settings(model=model, lora=lora), 8123, pixels, cores=2)
        assert ("--enable-tower-connector-lora" in command) == (name == "images")
        assert flags(command)["--lora-modules"] == f"leap={lora}"
    lora, _ = make_adapter(model, tmp_path / "dora", LLM, use_dora=True)
    with pytest.raises(LeapError, match="no DoRA adapters; merge it"):
        build_command("python", settings(model=model, lora=lora), 8123, pixels, cores=2)


@pytest.mark.slow
@pytest.mark.parametrize("targets", [LLM, [*LLM, *IMAGES]], ids=["llm", "all components"])
def test_an_unmerged_adapter_answers_as_the_merged_model(
    workspace: Path, model: Path, tmp_path: Path, targets: list[str]
) -> None:
    lora, merged = make_adapter(model, tmp_path, targets)
    beside, alone = on_cpu(model, lora=lora), on_cpu(merged)
    data = workspace / "dataset" / "vlm_evaluation_v1.0"
    evaluation = EvaluationSettings(data, leap_instructions(), SIZE, Decoding())
    examples = [example for dimension in DIMENSIONS for example in find_examples(data, dimension)]
    requests = build_requests(examples, examples, evaluation)

    def served(chosen: VllmSettings) -> list[tuple[int, str]]:
        with VllmServer(chosen, tmp_path / "server.log") as server, ThreadPoolExecutor(12) as pool:
            replies = list(pool.map(lambda request: ask(server, content(request)), requests))
        return [(status, reply["choices"][0]["message"]["content"]) for status, reply in replies]

    unmerged = served(beside)
    assert unmerged == served(alone)
    plain = responses(HfEngine(model, SIZE, batch_size=1), requests)
    expected = responses(HfEngine(lora, SIZE, base=model, batch_size=1), requests)
    # Of an end that is no whole character vLLM keeps the bytes back, and transformers shows a mark for each.
    assert unmerged == [(200, (expected[request.key].text or "").rstrip("\ufffd")) for request in requests]
    assert any(plain[request.key].text != expected[request.key].text for request in requests)
