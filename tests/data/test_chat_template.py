"""The trial of a model's chat template: what it renders, and that nothing else in the process decides how it ends."""

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from jinja2.exceptions import SecurityError
from tiny_models import CHAT_TEMPLATE, SMOLVLM_TEMPLATE

from leap.data import template_trial
from leap.data.chat_template import try_template
from leap.errors import LeapError
from leap.models.loading import load_processor

LARGE = "{{ 'a' * 10 ** 12 }}"
EVERYTHING = """
{%- set seen = namespace(count=0) %}
{{ bos_token or 'none' }} {{ eos_token }} {{ tools }} {{ documents }} {{ dict(a=1, b=2)['b'] }}
{% for message in messages %}
    {% generation %}
    {% set seen.count = seen.count + 1 %}{{ message.role }} {{ strftime_now('%%') }}
    {% endgeneration %}
    {{ message.content | tojson(indent=2) }} {{ 'ü<' | tojson }}
    {% if seen.count == 2 %}{% break %}{% endif %}
{% endfor %}
{{ seen.count }}{{ add_generation_prompt }}"""


@pytest.fixture(scope="module")
def processor(model: Path) -> Any:
    return load_processor(model)


def trial(template: str) -> dict[str, Any]:
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    answered = [*said, {"role": "assistant", "content": [{"type": "text", "text": "größer"}]}]
    return {
        "path": sys.path,
        "template": template,
        "special_tokens": {},
        "conversations": [[said, True], [answered, False], [answered + said, True]],
        "seconds": 5,
        "memory": 1 << 28,
        "longest": 1000,
    }


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, SMOLVLM_TEMPLATE, EVERYTHING], ids=["qwen", "smolvlm", "all"])
def test_it_renders_what_the_processor_does(processor: Any, template: str) -> None:
    tried = trial(template) | {"special_tokens": processor.tokenizer.special_tokens_map}
    assert list(template_trial.renderings(template_trial.template_environment(), tried)) == [
        processor.apply_chat_template(said, chat_template=template, tokenize=False, add_generation_prompt=wanted)
        for said, wanted in tried["conversations"]
    ]


@pytest.mark.parametrize("template", ["{{ namespace(__a=1) }}", "{% set n = namespace() %}{% set n.__a = 1 %}"])
def test_a_namespace_keeps_to_itself(template: str) -> None:
    with pytest.raises(SecurityError):
        template_trial.template_environment().from_string(template).render()


def test_whatever_other_threads_lock_and_try(processor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork would wait for the lock, end with nothing tried, and let no other thread fork meanwhile."""
    taking, go_on = threading.Event(), threading.Event()

    class SlowLock(FileLock):
        def _acquire(self) -> None:
            taking.set()
            go_on.wait()
            super()._acquire()

    monkeypatch.setattr(processor, "chat_template", LARGE)
    with ThreadPoolExecutor(3) as threads:
        taken = threads.submit(SlowLock(tmp_path / "lock").acquire)
        try:
            taking.wait()
            for one in [threads.submit(try_template, processor) for _ in range(2)]:
                with pytest.raises(LeapError, match="takes more than 2 GiB of memory"):
                    one.result()
            assert not taken.done()
        finally:
            go_on.set()
        taken.result().lock.release()


def test_a_trial_that_cannot_run_accepts_no_template(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    with pytest.raises(LeapError, match=r"template_trial\.py: ModuleNotFoundError: No module named 'jinja2'"):
        try_template(processor)


@pytest.mark.parametrize(("template", "code"), [("{{ 1 }}", 0), (LARGE, template_trial.TOO_LARGE)])
def test_where_the_system_gives_less_memory_than_a_trial_may_take(template: str, code: int) -> None:
    command = ["sh", "-c", 'ulimit -v 200000; exec "$0" "$@"', sys.executable, "-IS", template_trial.__file__]
    assert subprocess.run(command, input=json.dumps(trial(template)), text=True, check=False).returncode == code
