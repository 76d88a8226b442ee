"""A model's chat template: code that came with the model, so it is tried before it is relied on, and bounded.

Jinja's sandbox keeps a template from files and from the network. It bounds neither time nor memory, and whatever a
template raises comes out as it is.
"""

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leap.errors import LeapError

Conversation = list[dict[str, Any]]

_SECONDS = 5  # of CPU; a conversation takes milliseconds
_MEMORY = 2 << 30  # bytes more than this process has
_LONGEST = 1_000_000  # characters around the texts of a conversation
_ENDLESS, _TOO_LARGE, _TOO_LONG = 3, 4, 5  # exit codes of the trial
_WHY = {
    _ENDLESS: f"does not end within {_SECONDS} s",
    _TOO_LARGE: f"takes more than {_MEMORY >> 30} GiB of memory",
    _TOO_LONG: f"writes more than {_LONGEST:,} characters around a question",
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

    In a child process, since only the system ends `10 ** 10 ** 10` or a text that doubles for ever. A template that
    fails is not refused here: it fails where it is rendered, with its reason.
    """
    trial = os.fork()
    if trial == 0:
        code = 0
        try:
            _limit_child()
            longest = max(len(render(processor, said, wanted)) for said, wanted in _conversations())
            code = _TOO_LONG if longest > _LONGEST else 0
        except MemoryError:
            code = _TOO_LARGE
        except LeapError as error:
            code = _TOO_LARGE if isinstance(error.__cause__, MemoryError) else 0
        finally:
            os._exit(code)
    _, status = os.waitpid(trial, 0)
    code = _ENDLESS if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
    if code in _WHY:
        raise refusal(processor, _WHY[code])


def _limit_child() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    if sys.platform == "linux":
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))


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
            raise refusal(processor, _WHY[_ENDLESS])

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
