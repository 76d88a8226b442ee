"""A model's chat template: code that came with the model, so it is tried before it is relied on, and bounded.

Jinja's sandbox keeps a template from files and from the network. It bounds neither time nor memory, and whatever a
template raises comes out as it is.
"""

import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leap.data import template_trial
from leap.errors import LeapError

Conversation = list[dict[str, Any]]

_SECONDS = 5  # of CPU; a conversation takes milliseconds
_MEMORY = 2 << 30  # bytes more than the trial's process has
_LONGEST = 1_000_000  # characters around the texts of a conversation
_ENDLESS = f"does not end within {_SECONDS} s"
_WHY = {
    template_trial.TOO_LARGE: f"takes more than {_MEMORY >> 30} GiB of memory",
    template_trial.TOO_LONG: f"writes more than {_LONGEST:,} characters around a question",
}


def render(processor: Any, conversation: Conversation, add_generation_prompt: bool) -> str:
    """What the template makes of a conversation. Raises LeapError that names it where it fails or does not end."""
    try:
        with _bounded(processor):
            text = processor.apply_chat_template(
                conversation, tokenize=False, add_generation_prompt=add_generation_prompt
            )
    except LeapError:
        raise
    except Exception as error:  # Jinja's errors, and whatever the expressions of a template raise
        raise refusal(processor, f"fails ({type(error).__name__}: {str(error).strip() or 'without a word'})") from error
    if not isinstance(text, str):
        raise refusal(processor, f"gives no text but {type(text).__name__}")
    return text


def try_template(processor: Any) -> None:
    """Raise LeapError where the template takes too much time or memory, or makes a short conversation too long.

    In another process, since only the system ends `10 ** 10 ** 10` or a text that doubles for ever. It is no fork of
    this one, whose threads may hold locks: the child would wait for one for ever, and filelock lets no two threads fork
    at once. A template that fails is not refused here: it fails where it is rendered, with its reason.
    """
    template = processor.chat_template
    trial = {
        "path": sys.path,
        "template": template.get("default") if isinstance(template, dict) else template,
        "special_tokens": processor.tokenizer.special_tokens_map,
        "conversations": list(_conversations()),
        "seconds": _SECONDS,
        "memory": _MEMORY,
        "longest": _LONGEST,
    }
    command = [sys.executable, "-IS", template_trial.__file__]
    done = subprocess.run(command, input=json.dumps(trial, default=str), capture_output=True, text=True, check=False)
    if why := _ENDLESS if done.returncode < 0 else _WHY.get(done.returncode):
        raise refusal(processor, why)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise LeapError(f"a chat template cannot be tried: {shlex.join(command)}: {reason}")


def _conversations() -> Iterator[tuple[Conversation, bool]]:
    """What LEAP asks templates for: a question with an image, the same with its answer, and a second one after it."""
    question = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "!"}]}
    yield [question], True
    yield [question, answer], False
    yield [question, answer, question], True


@contextmanager
def _bounded(processor: Any) -> Iterator[None]:
    """An error after too long a time on the CPU; only where signals arrive, in a rank's main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    end = time.thread_time() + _SECONDS

    def look(*_: Any) -> None:
        if time.thread_time() > end:  # the timer counts the time of all threads
            raise refusal(processor, _ENDLESS)

    before = signal.signal(signal.SIGVTALRM, look)
    signal.setitimer(signal.ITIMER_VIRTUAL, _SECONDS, 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def refusal(processor: Any, why: str) -> LeapError:
    """The error that says of a model's template what is wrong with it."""
    folder = Path(processor.tokenizer.name_or_path)
    files = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
    place = next((folder / name for name in files if (folder / name).is_file()), folder)
    return LeapError(f"{place}: this chat template {why}; copy the one that belongs to the model")
