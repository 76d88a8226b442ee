"""What the benchmark of evaluation says of start-up, and of vLLM's own class on the same examples."""

from evaluation_throughput import beside, with_start_up
from make_readme import _beside

from leap.inference.protocol import Response


def test_start_up_counts_once_and_with_it_the_examples_that_warm_up() -> None:
    assert with_start_up(96.0, 64.0, warm_up=64, examples=256) == {"start_up_seconds": 96.0, "with_start_up": 2.0}


def test_vllms_own_class_is_compared_response_by_response() -> None:
    keys = [("", "speed", str(index)) for index in range(3)]
    responses = [Response(key, f"plan {key[2]}") for key in reversed(keys)]  # in the order in which they came
    chat = {"rate": 5.0, "with_start_up": 1.0, "texts": {keys[1]: "plan 1", keys[2]: "another"}}
    found = beside({"answers": responses, "ends": [0.1, 0.2, 0.24]}, chat)
    assert found == {"rate": 5.0, "with_start_up": 1.0, "ours_over_as_many": 10.0, "same_text": 1, "of": 2}
    shown = _beside({"ours": 12.5, "with_start_up": 4.0, "vllm_chat": found, "lmms_eval": {"rate": 2.5}})
    assert shown == [
        "2.00 times vLLM's LLM.chat (5.00) over as many",
        "5.00 times lmms-eval (2.50) over as many",
        "4.00 with start-up",
    ]
