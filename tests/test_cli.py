"""Command lines: numbers checked alike in every script, help that says all, refusals in one line and at once."""

import argparse
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, run_script
from hypothesis import example, given
from hypothesis import strategies as st

from leap import cli

SCRIPTS = sorted(str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / "scripts").rglob("*.py"))
BENCHMARKS = sorted(
    f"benchmarks/{path.name}" for path in (REPOSITORY / "benchmarks").glob("*.py") if "Parser(" in path.read_text()
)


class Seen(Exception):
    """Raised where a script would parse its command line, with its parser."""


def parser_of(script: str) -> cli.Parser:
    def show(self: cli.Parser, *_: Any) -> None:
        raise Seen(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli.Parser, "parse_known_args", show)
        with pytest.raises(Seen) as seen:
            run_script(script)
    return seen.value.args[0]


# --- spellings


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS])
def test_every_flag_is_declared_with_underscores_and_taken_with_hyphens(script: str) -> None:
    parser = parser_of(script)
    declared = parser._option_string_actions
    assert [flag for flag in declared if "-" in flag.lstrip("-")] == []
    for flag, action in declared.items():
        words = ["--" + flag[2:].replace("_", "-")] if flag.startswith("--") else [flag]
        assert [parser._declared(word) for word in words] == [flag], action
    shown = set(re.findall(r"(?<![\w-])--[a-z]+-[a-z-]+", parser.format_help()))
    assert shown <= {"--max-num-seqs", "--local-dir"}, shown  # vLLM's own, and hf download's


def test_hyphens_and_underscores_mean_the_same_and_values_stay_as_they_are() -> None:
    parser = cli.Parser(None)
    parser.add_argument("--max_steps", type=cli.count)
    parser.add_argument("--vllm_args")
    parser.add_argument("--names", nargs="*")
    for flag in ("--max_steps", "--max-steps", "--max-st"):
        assert parser.parse_args([flag, "7"]).max_steps == parser.parse_args([f"{flag}=7"]).max_steps == 7
    assert parser.parse_args(["--vllm-args=--max-num-seqs=64"]).vllm_args == "--max-num-seqs=64"
    assert parser.parse_args(["--vllm-args", "--max-num-seqs 64"]).vllm_args == "--max-num-seqs 64"
    assert parser.parse_args(["--names", "a-b", "-1"]).names == ["a-b", "-1"]
    assert parser.parse_known_args(["--other-flag", "--max-steps", "7"])[1] == ["--other-flag"]


# --- numbers


NUMBERS = (
    *(cli.whole, cli.count, cli.count_or_all, cli.seed, cli.image_tokens, cli.some_workers, cli.any_workers),
    cli.repeats,
    *(cli.seconds, cli.some_seconds, cli.temperature, cli.share, cli.usd, cli.gigabytes, cli.counts),
)
OTHERS = {
    "split",
    "Path",
    "_yaml_value",
    "names",
    "words",
    "device",
    "resolve",
    "find_data",
    "find_model",
    "_from_here",
    "shown",
}  # what else a value is read with


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS])
def test_every_number_on_a_command_line_is_checked(script: str) -> None:
    for action in parser_of(script)._actions:
        if action.type is not None:
            assert action.type in NUMBERS or action.type.__name__ in OTHERS, action.option_strings


ODD = "nan -nan inf -inf 1e400 -1 -0.5 0x10 1_0 ² ٣ 1e -- \x1b".split(" ")
TEXTS = (
    st.sampled_from([*ODD, "", " ", "9" * 5000]) | st.text(max_size=9) | st.floats().map(str) | st.integers().map(str)
)


@given(st.sampled_from(NUMBERS), TEXTS)
@example(cli.temperature, "1e-40")
@example(cli.share, "0")
@example(cli.image_tokens, "1000000000")
def test_a_number_is_refused_or_of_use(kind: Any, text: str) -> None:
    """Whatever is typed: a finite number that is not negative, or one short line."""
    try:
        found = kind(text)
    except argparse.ArgumentTypeError as error:
        refused = str(error)
    else:
        refused, values = "", found if isinstance(found, list) else [found]
        assert all(value is None or (math.isfinite(value) and 0 <= value < 2**32) for value in values)
    assert refused.isprintable()
    assert len(refused) < 150


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (cli.whole, "0", 0),
        (cli.count, "36", 36),
        (cli.count_or_all, "None", None),
        (cli.seed, "4294967295", 2**32 - 1),
        (cli.image_tokens, "16384", 16384),
        (cli.seconds, "1e3", 1000.0),
        (cli.temperature, "0.7", 0.7),
        (cli.share, "1", 1.0),
        (cli.usd, ".5", 0.5),
        (cli.names, "a, b c", ["a", "b c"]),
        (cli.words, "a, b c", ["a", "b", "c"]),
        (cli.counts, "1000 7000", [1000, 7000]),
    ],
)
def test_a_good_number_is_taken(kind: Any, text: str, value: Any) -> None:
    assert kind(text) == value


E = "scripts/evaluation"
REFUSED = [
    (f"{E}/run_vlm_output.py --temperature nan", "--temperature: 'nan': 0 (greedy) or a number from 0.001"),
    (f"{E}/run_vlm_output.py --top_p 5", "--top_p: '5': a number above 0 and up to 1 is needed"),
    (f"{E}/run_vlm_output.py --seed -1", "--seed: '-1': a whole number from 0"),
    (f"{E}/run_vlm_output.py --image_tokens_min 900 --image_tokens_max 300", "--image_tokens_min 900 is above"),
    (f"{E}/run_vlm_output.py --engine openai --max_models 2", "do nothing with --engine openai"),
    (f"{E}/run_vlm_evaluation.py --image_tokens_min 1000000000", "--image_tokens_min: '1000000000': a whole number"),
    (f"{E}/run_vlm_evaluation.py --image_tokens_min 900 --image_tokens_max 300", "--image_tokens_min 900 is above"),
    (f"{E}/run_vlm_evaluation.py --max_new_tokens 0", "--max_new_tokens: '0': a whole number from 1"),
    (f"{E}/run_vlm_evaluation.py --few_shot_seed 3", "do nothing without --few_shot_num"),
    (f"{E}/run_vlm_evaluation.py --engine openai --timeout inf", "--timeout: 'inf': a number of seconds"),
    (f"{E}/run_vlm_evaluation.py --engine openai --input_price -3", "--input_price: '-3': an amount in USD"),
    (f"{E}/plan_one.py --image a --instruction b --max_new_tokens 0", "--max_new_tokens: '0'"),
    (f"{E}/plan_one.py --image a --instruction b --image_tokens_min 9 --image_tokens_max 4", "is above"),
    (f"{E}/serve_planner.py --api_key schlüssel", "--api_key: letters, digits and signs of ASCII"),
    (f"{E}/serve_planner.py --port 70000", "--port 70000: ports end at 65535"),
    (f"{E}/serve_planner.py --engine openai --checkpoint x", "--engine openai serves what that server has"),
    (f"{E}/serve_planner.py --checkpoint a --lora_adapter_path b", "--checkpoint is a model of its own"),
    (f"{E}/serve_planner.py --request_timeout 0", "--request_timeout: '0': a number of seconds"),
    (f"{E}/analyze_output_results.py --max_cost nan", "--max_cost: 'nan': an amount in USD"),
    (f"{E}/analyze_output_results.py --only_models ,", "--only_models: ',': it names nothing"),
    (f"{E}/analyze_output_results.py --image_tokens_min 9 --image_tokens_max 4", "--image_tokens_min 9 is above"),
    (f"{E}/analyze_output_results.py --judge a@http://h/v1,input=nan,output=1", "an amount in USD from 0"),
    (f"{E}/compare_models.py a a", "a is to be compared with itself"),
    (f"{E}/compare_models.py a b --seed 1.5", "--seed: '1.5'"),
    ("scripts/utils/monitor_evaluation.py --interval inf", "--interval: 'inf': a number of seconds"),
    ("scripts/utils/monitor_evaluation.py --interval 1e300", "--interval: '1e300'"),
    ("scripts/utils/monitor_evaluation.py --once --interval 3", "--interval does nothing with it"),
    ("scripts/utils/make_demo_workspace.py --seed -1", "--seed: '-1'"),
    ("scripts/utils/make_demo_workspace.py --training_samples 0", "--training_samples: '0'"),
    ("scripts/utils/prepare_love_agibot.py --num_workers 1000000", "--num_workers: '1000000'"),
    ("scripts/utils/verify_dataset.py --restore a --quarantine", "give one of them"),
    ("scripts/utils/check_and_clean_images.py --restore a --delete", "give one of them"),
    ("scripts/download/download_model.py --initial_sleep 9 --max_sleep 3", "--initial_sleep 9.0 is above"),
    ("scripts/download/download_model.py --max_sleep nan", "--max_sleep: 'nan'"),
    ("scripts/ablation/run-ablation-experiments.py --presets ,", "--presets: ',': it names nothing"),
    ("scripts/ablation/run-ablation-experiments.py --steps 0", "--steps: '0'"),
    ("scripts/ablation/run-ablation-experiments.py --dry_run --report_only", "give one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "message"), REFUSED)
def test_a_number_out_of_range_and_a_contradiction_are_wrong_usage(line: str, message: str, tmp_path: Path) -> None:
    script, *words = line.split()
    done = run_script(script, *words, root=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "out of memory ("),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate"), "out of memory (CUDA out of memory. Tried"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory ("),
    ],
)
def test_running_out_of_memory_is_one_line(error: Exception, message: str, capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as end:
        cli.run(main)
    assert end.value.code == cli.FAILED
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")


# --- wrong usage costs no time

WRONG = [
    f"{E}/run_vlm_evaluation.py --dimension nonsense",
    f"{E}/run_vlm_evaluation.py --model_name ../x",
    f"{E}/run_vlm_evaluation.py --device nonsense",
    f"{E}/run_vlm_evaluation.py --checkpoint nowhere",
    f"{E}/run_vlm_evaluation.py --batch_mode --checkpoints_dir nowhere --skip_baseline",
    f"{E}/run_vlm_evaluation.py --engine openai --workers 3",
    f"{E}/run_vlm_evaluation.py --engine openai --base_url nonsense",
    f"{E}/run_vlm_output.py --data_file nowhere",
    f"{E}/run_vlm_output.py --data_file {__file__} --baseline_model nowhere",
    f"{E}/run_parallel_evaluation.py --gpus 0,0",
    f"{E}/run_parallel_evaluation.py --gpus 0 --ray_address auto",
    f"{E}/run_vlm_evaluation.py --jobs 2",
    f"{E}/run_vlm_evaluation.py --wait 2",
    f"{E}/run_vlm_evaluation.py --engine openai --ray_address auto",
    f"{E}/run_vlm_evaluation.py --gpus_per_model 2 --ray_address auto",
    f"{E}/analyze_output_results.py --judge x,nonsense=3",
    f"{E}/analyze_output_results.py --judge rubric --pairwise",
    f"{E}/compare_models.py a b --score nonsense",
    f"{E}/plan_one.py --image a --instruction b --device nonsense",
    f"{E}/plan_one.py --image {__file__} --instruction b --checkpoint nowhere",
    "scripts/training/run-finetuning.py --recipe nowhere",
    "scripts/training/run-finetuning.py --recipe demo --learning_rate nan",
    "scripts/training/run-finetuning.py --recipe demo --train_file nowhere.jsonl",
    "scripts/training/run-finetuning.py --recipe demo --deepspeed nowhere.json",
    "scripts/training/export_model.py --checkpoint a --output b --private",
    "scripts/ablation/run-lora-finetuning.py --lora_preset nonsense",
    "scripts/ablation/run-lora-finetuning.py --lora_r 0",
    "scripts/ablation/run-ablation-experiments.py --presets nonsense",
    "scripts/ablation/run-ablation-experiments.py --lora_r 5",
    "scripts/ablation/run-ablation-experiments.py --gpus 0,0",
    "scripts/ablation/run-ablation-experiments.py --name ../x",
    "scripts/ablation/run-ablation-experiments.py -- --model_name x",
    "scripts/download/download_vlabench_with_retry.py --dimensions nonsense",
    "scripts/download/download_leap_data.py --tasks 3",
    "scripts/utils/check_and_clean_images.py --data_dir nowhere",
    "scripts/utils/make_demo_workspace.py --size 0",
    "scripts/utils/monitor_evaluation.py --once --interval 3",
]
REFUSE = """
import contextlib, io, runpy, shlex, sys
heavy = {"torch", "transformers", "pandas", "matplotlib", "datasets"}
for line in sys.stdin:
    sys.argv = shlex.split(line)
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.suppress(SystemExit):
        runpy.run_path(sys.argv[0], run_name="__main__")
    loaded = heavy & set(sys.modules)
    if loaded or not said.getvalue().startswith("error: ") or len(said.getvalue().splitlines()) > 1:
        sys.exit(f"{line}{loaded}: {said.getvalue()}")
"""


def test_what_is_typed_wrong_is_refused_before_anything_large_is_loaded(tmp_path: Path) -> None:
    """PyTorch and transformers alone take five to eight seconds."""
    lines = "\n".join([*(line for line, _ in REFUSED), *WRONG, *(f"{script} --nonsense" for script in SCRIPTS)])
    environment = {**os.environ, "LEAP_ROOT": str(tmp_path)}
    command = [sys.executable, "-c", REFUSE]
    done = subprocess.run(
        command, input=f"{lines}\n", cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert not any(tmp_path.iterdir())


# --- help


@pytest.mark.parametrize("script", [*SCRIPTS, *BENCHMARKS])
def test_help_has_choices_defaults_and_an_example(script: str) -> None:
    parser = parser_of(script)
    shown = parser.format_help()
    assert re.search(rf"^    (?:\w+=\S+ )*(?:python|bash) \S*{Path(script).stem}", shown, re.MULTILINE), "no example"
    for action in parser._actions:
        if action.help is argparse.SUPPRESS or action.nargs == 0 or action.required:
            continue
        formatter = parser._get_formatter()
        formatter.add_argument(action)
        message = " ".join(formatter.format_help().split())
        assert "default" in message, action.option_strings
        assert all(str(choice) in message for choice in action.choices or ()), action.option_strings


def test_recipe_flags_show_their_choices_and_defaults() -> None:
    shown = " ".join(parser_of("scripts/training/run-finetuning.py").format_help().split())
    for words in (
        "--attn_implementation {sdpa,eager,flash_attention_2,flash_attention_4} of padded samples; packed ones have "
        "PyTorch's flash attention, or with flash_attention_4 that of the package flash-attn-4. eager pads, which is "
        "slower (default: sdpa)",
        "--lora_parts {vision,projector,llm},… where to look (default: ['llm'])",
        "--eval_strategy {no,steps,epoch} (default: None)",
        "--train_file VALUE training samples: a JSONL, JSON or Parquet file, a folder, or org/name (default: the "
        "recipe has it)",
        "--bf16 [true|false]",
    ):
        assert words in shown
