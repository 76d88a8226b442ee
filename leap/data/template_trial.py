"""Render a chat template within bounds, in a process of its own, for `chat_template.try_template`.

    python -IS template_trial.py < TRIAL

TRIAL is a JSON object: the template, what it is to render, the bounds, and where to find Jinja. Nothing else is
imported: the transformers library takes a second to start, and this is done whenever a model is loaded.
"""

import json
import resource
import sys
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

TOO_LARGE, TOO_LONG = 4, 5  # exit codes; a template that does not end is killed


def main() -> int:
    """0 where the template ends within its bounds, and where it fails: that is told where it is used."""
    trial = json.load(sys.stdin)
    sys.path[:] = trial["path"]
    environment = template_environment()
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_CPU, trial["seconds"])
    if sys.platform == "linux":
        with open("/proc/self/statm", encoding="ascii") as file:
            _limit(resource.RLIMIT_AS, int(file.read().split()[0]) * resource.getpagesize() + trial["memory"])
    try:
        longest = max(map(len, renderings(environment, trial)))
    except MemoryError:
        return TOO_LARGE
    except Exception:  # noqa: BLE001  whatever the expressions of a template raise
        return 0
    return TOO_LONG if longest > trial["longest"] else 0


def _limit(kind: int, most: int) -> None:
    _, allowed = resource.getrlimit(kind)
    most = most if allowed == resource.RLIM_INFINITY else min(most, allowed)
    resource.setrlimit(kind, (most, most))


def renderings(environment: Any, trial: dict[str, Any]) -> Iterator[str]:
    """What the template makes of each conversation, as a processor's `apply_chat_template`."""
    template = environment.from_string(trial["template"])
    for messages, wanted in trial["conversations"]:
        yield template.render(
            messages=messages, tools=None, documents=None, add_generation_prompt=wanted, **trial["special_tokens"]
        )


def template_environment() -> Any:
    """Jinja's sandbox with what transformers' `render_jinja_template` adds and takes away; that has no name there."""
    from jinja2 import TemplateError, nodes
    from jinja2.exceptions import SecurityError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """{% generation %} marks what a model says, and changes nothing."""

        tags = {"generation"}  # noqa: RUF012  as Jinja declares it

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            said = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(said, lineno=line)

    class PublicNamespace(Namespace):
        """Whose names lead to nothing of Python's own."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(name)
            super().__setitem__(name, value)

    def namespace(**values: Any) -> Namespace:
        made = PublicNamespace()
        for name, value in values.items():
            made[name] = value
        return made

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
        "dict": lambda *pairs, **values: dict(*pairs, **values),
        "namespace": namespace,
    }
    return environment


if __name__ == "__main__":
    sys.exit(main())
