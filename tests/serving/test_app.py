"""What the service says of itself."""

from pathlib import Path

import pytest

from leap.data.image import ImageSize
from leap.evaluation.settings import EvaluationSettings
from leap.inference.openai import Endpoint
from leap.inference.protocol import Decoding
from leap.serving.door import Limits
from leap.vlabench.prompts import leap_instructions

pytest.importorskip("python_multipart", reason="the extra 'serve' is not installed")


@pytest.mark.parametrize(("key", "schemes"), [("a-key-to-come-in", ["HTTPBearer"]), (None, [])])
def test_the_description_says_whether_a_key_is_needed(key: str | None, schemes: list[str]) -> None:
    """Its form has a field for the key only then."""
    from leap.serving.app import Planner, make_app
    from leap.serving.backends import Behind

    size = ImageSize(4, 9)
    settings = EvaluationSettings(Path(), leap_instructions(), size, Decoding())
    backend = Behind(Endpoint("http://127.0.0.1:1/v1", "tiny"), size, timeout=1)
    described = make_app(Planner(backend, settings, Limits()), key, ["*"]).openapi()
    assert list(described.get("components", {}).get("securitySchemes", {})) == schemes
    assert described["paths"]["/plan"]["post"].get("security", []) == [{name: []} for name in schemes]
