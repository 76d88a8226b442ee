"""The port and the model that the service takes, before anything is loaded."""

from pathlib import Path

import pytest
from conftest import run_script

from leap.errors import LeapError

pytest.importorskip("python_multipart", reason="the extra 'serve' is not installed")
SCRIPT = "scripts/evaluation/serve_planner.py"


@pytest.mark.parametrize(
    "flags",
    ["--checkpoint models/tiny --base_model_path models/tiny", "--lora_adapter_path models/tiny"],
)
def test_an_adapters_flags_are_refused_for_a_whole_model(flags: str, workspace: Path) -> None:
    """As the evaluation refuses them: what they name would not be served."""
    done = run_script(SCRIPT, *flags.split(), "--engine", "hf", "--device", "cpu", "--port", "0", root=workspace)
    assert done.returncode == 2
    assert "models/tiny is no LoRA adapter" in done.stderr


def test_a_second_service_is_refused_the_port_while_the_first_one_loads() -> None:
    from leap.serving.serve import bind

    with bind("127.0.0.1", 0) as first, pytest.raises(LeapError, match="Address already in use"):
        bind("127.0.0.1", first.getsockname()[1])
