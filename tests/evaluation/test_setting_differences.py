"""What two runs were not alike in, and what may be said of their scores then."""

import copy
from pathlib import Path
from typing import Any

import pytest

from leap.data.image import ImageSize
from leap.evaluation.setting_differences import setting_differences
from leap.evaluation.settings import EvaluatedModel, EvaluationSettings, FewShot
from leap.inference.protocol import Decoding
from leap.vlabench.prompts import leap_instructions

SETTINGS = EvaluationSettings(Path("data"), leap_instructions(), ImageSize(4, 9), Decoding())


def manifest(model: str = "a" * 64, **more: Any) -> dict[str, Any]:
    """As a result folder keeps it."""
    kept = {"settings": SETTINGS.to_dict(), "scorer": SETTINGS.scorer.to_dict()}
    files = {"chat_template.jinja": "t" * 64, "config.json": model}
    of_model = EvaluatedModel("m", weights=model, files=files).to_dict()
    data = {"examples": 9, "fingerprint": "one"}
    return copy.deepcopy({"model": of_model, "data": data, "blind": {"fingerprint": "whole"}, **kept, **more})


def with_setting(name: str, value: Any, **more: Any) -> dict[str, Any]:
    found = manifest("b" * 64, **more)
    found["settings"][name] = value
    return found


def test_alike() -> None:
    assert setting_differences(manifest(), manifest("b" * 64)) == []
    assert setting_differences({}, manifest()) == setting_differences(manifest(), {}) == []


@pytest.mark.parametrize(
    ("other", "said", "matters"),
    [
        (with_setting("engine", "vllm"), "engine hf against vllm", False),
        (with_setting("dtype", "bfloat16"), "dtype float32 against bfloat16", False),
        (with_setting("quantization", "4bit"), "quantization None against 4bit", True),
        (with_setting("engine_arguments", ["--x"]), "engine_arguments None against ['--x']", True),
        (with_setting("with_cot", True), "with_cot False against True", True),
        (with_setting("image_tokens", [4, 64]), "image size 4 to 9 against 4 to 64 tokens", True),
        (with_setting("few_shot", {"number": 1}), "few_shot None against number 1", True),
        (with_setting("image_control", "swapped"), "image_control none against swapped", False),
        (
            with_setting("prompt", {**SETTINGS.to_dict()["prompt"], "language": "zh", "sha256": "f" * 64}),
            f"prompt language en against zh; prompt sha256 {SETTINGS.instructions.sha256[:12]} against {'f' * 12}",
            True,
        ),
        (
            with_setting("decoding", Decoding(max_new_tokens=9).to_dict()),
            "decoding max_new_tokens 512 against 9",
            True,
        ),
        (manifest("b" * 64, scorer={"name": "vlabench", "vlabench": SETTINGS.scorer.commit}),
         "scorer leap against vlabench", False),
        (manifest("b" * 64, scorer={"name": "leap", "vlabench": "old"}),
         f"scoring rules {SETTINGS.scorer.commit[:12]} against old", True),
        (manifest("b" * 64, blind={"fingerprint": "other"}), "data whole against other", True),
        (manifest("b" * 64, blind={}, data={"examples": 9, "fingerprint": "two"}), "data one against two", True),
    ],
)  # fmt: skip
def test_each_setting_is_named(other: dict[str, Any], said: str, matters: bool) -> None:
    found = setting_differences(manifest(), other)
    assert "; ".join(map(str, found)) == said
    assert {one.matters for one in found} == {matters}


def test_every_setting_that_answers_depend_on_is_looked_at() -> None:
    """A new one that is forgotten here would go unnamed."""
    changed = EvaluationSettings(
        Path("other"),
        leap_instructions("zh"),
        ImageSize(5, 10),
        Decoding(7),
        engine="vllm",
        dtype=None,
        quantization="8bit",
        engine_arguments=("--y",),
        image_control="blank",
        few_shot=FewShot(2),
        with_cot=True,
    )
    found = setting_differences(manifest(), manifest("b" * 64, settings=changed.to_dict()))
    assert {one.name.split(" ")[0] for one in found} == set(changed.to_dict())


def test_of_one_model_the_settings_are_what_is_compared() -> None:
    """A model with and without CoT may differ significantly; on other data it may not."""
    same = manifest()
    same["settings"]["with_cot"] = True
    assert [one.matters for one in setting_differences(manifest(), same)] == [False]
    other = manifest(blind={"fingerprint": "other"})
    assert [one.matters for one in setting_differences(manifest(), other)] == [True]


def test_a_part_of_the_data_is_no_other_data() -> None:
    """Only the examples that both have are paired."""
    part = manifest("b" * 64, blind={}, data={"examples": 3, "fingerprint": "three"})
    assert setting_differences(manifest(), part) == setting_differences(part, manifest()) == []


def test_chat_templates_are_compared_wherever_they_lie() -> None:
    adapter = manifest("b" * 64)
    adapter["model"]["files"] = {"base/chat_template.jinja": "t" * 64, "adapter_config.json": "c" * 64}
    assert setting_differences(manifest(), adapter) == []
    adapter["model"]["files"]["base/chat_template.jinja"] = "u" * 64
    assert [str(one) for one in setting_differences(manifest(), adapter)] == [
        f"chat template chat_template.jinja {'t' * 12} against {'u' * 12}"
    ]
