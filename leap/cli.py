"""What every script shares: its parser, the numbers on a command line, errors in one line, and exit codes."""

import argparse
import errno
import logging
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from leap.environment import check_environment
from leap.errors import LeapError, Stopped, UsageError, is_out_of_memory
from leap.hardware import prepare_allocator, prepare_threads
from leap.interrupt import INTERRUPTED, interrupts_end, interrupts_raise
from leap.terminal import guard, in_one_line, shorten

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
DONE, FAILED, WRONG_USAGE = 0, 1, 2
MOST_IMAGE_TOKENS = 16_384  # of an image: Qwen3-VL's processors take no more
LARGEST_COUNT = 2**31 - 1  # what arrays, libraries and servers take as a count
MOST_WORKERS = 1024
FIGURE_FORMATS = ("png", "svg", "pdf")
MOST_REPEATS = 1000  # sampled responses to one example
_FLAG = re.compile(r"--[A-Za-z][\w-]*")
_LONGEST = 1e8  # seconds, three years: what the system's clocks and sleeps take


class Parser(argparse.ArgumentParser):
    """A script's parser: its docstring as the description, every default in --help, and refusals in one line.

    Flags are declared, and shown, with underscores, since a recipe's keys are flags too; --max-steps is --max_steps.
    """

    def __init__(self, description: str | None, add_help: bool = True) -> None:
        super().__init__(description=description, formatter_class=_Help, add_help=add_help)

    def parse_known_args(  # type: ignore[override]  # one signature for typeshed's two overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        given = sys.argv[1:] if args is None else args
        return super().parse_known_args([self._declared(word) for word in given], namespace)

    def _declared(self, word: str) -> str:
        """One of this parser's flags, or the beginning of one, as it is declared; any other word as it is."""
        flag = with_underscores(word)
        name = flag.partition("=")[0]
        return flag if any(one.startswith(name) for one in self._option_string_actions) else word

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """What a flag's type refuses as LEAP does everywhere is refused under the flag's name."""
        try:
            return super()._get_value(action, arg_string)
        except LeapError as error:
            raise argparse.ArgumentError(action, str(error)) from error

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, in_one_line(f"error: {message}; --help lists the flags") + "\n")


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        takes_no_value = action.nargs == 0 or action.default is argparse.SUPPRESS
        if takes_no_value or action.required or "default" in text:
            return text
        return f"{text} (default: {'%(default)s' if action.default not in (None, [], ()) else 'none'})"


def with_underscores(word: str) -> str:
    """A word of a command line with its hyphens as underscores where it is a flag; not what stands behind a "="."""
    flag, equals, value = word.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}" if _FLAG.fullmatch(flag) else word


def run(main: Callable[[], int | None]) -> None:
    """Call `main` and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 ended in good order by SIGTERM.

    A LeapError is the user's to mend, so its text is enough; any other exception keeps its traceback. Neither shows
    a key, a token or a password.
    """
    interrupts_raise()
    # Where it is installed, it says at every start, of a GPU machine too, which kernels for CPUs it could have.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    guard()
    prepare_allocator()
    prepare_threads()
    try:
        check_environment()
        code = main() or DONE
    except LeapError as error:
        print(f"error: {in_one_line(str(error))}", file=sys.stderr)
        code = WRONG_USAGE if isinstance(error, UsageError) else FAILED
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        code = 128 + stopped.signal
    except KeyboardInterrupt:
        interrupts_end()  # before a second one
        again = "the same command without --fresh" if "--fresh" in sys.argv else "the same command"
        print(f"interrupted; {again} continues from here", file=sys.stderr)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, say) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = DONE
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        print(in_one_line(f"error: out of memory ({error}); ask less at once, or free memory"), file=sys.stderr)
        code = FAILED
    except OSError as error:  # a full disk, a folder that may not be written
        remedy = "; make room, then run the same command again" if error.errno in _NO_ROOM else ""
        print(in_one_line(f"error: {error.filename or 'a file'}: {error.strerror or error}{remedy}"), file=sys.stderr)
        code = FAILED
    interrupts_end()
    sys.exit(code)


def _whole(least: int, largest: int = LARGEST_COUNT) -> Callable[[str], int]:
    """Digits of ASCII alone: what else Python takes for a number, a typing error put there."""

    def read(text: str) -> int:
        if not re.fullmatch(r"\+?[0-9]{1,18}", text) or not least <= int(text) <= largest:
            raise argparse.ArgumentTypeError(f"{shorten(text)!r}: a whole number from {least} to {largest:,} is needed")
        return int(text)

    return read


def _real(what: str, allowed: Callable[[float], bool]) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and allowed(value)):
            raise argparse.ArgumentTypeError(f"{shorten(text)!r}: {what} is needed")
        return value

    return read


# Types of flags, for argparse.
whole, count = _whole(0), _whole(1)
seed = _whole(0, 2**32 - 1)  # as NumPy's generators take it
image_tokens = _whole(1, MOST_IMAGE_TOKENS)  # of 32x32 pixels each; the most are those of 4096x4096 pixels
some_workers = _whole(1, MOST_WORKERS)  # processes, or requests at a time
any_workers = _whole(0, MOST_WORKERS)  # processes beside this one; with 0 it does all itself
repeats = _whole(1, MOST_REPEATS)  # how often each example is asked
seconds = _real(f"a number of seconds from 0 to {_LONGEST:,.0f}", lambda value: 0 <= value <= _LONGEST)
some_seconds = _real(f"a number of seconds from 0.001 to {_LONGEST:,.0f}", lambda value: 1e-3 <= value <= _LONGEST)
# So near to 0 that logits overflow when they are divided by it is refused.
temperature = _real("0 (greedy) or a number from 0.001 to 100", lambda value: value == 0 or 1e-3 <= value <= 100)
share = _real("a number above 0 and up to 1", lambda value: 0 < value <= 1)
usd = _real("an amount in USD from 0 to 1,000,000,000", lambda value: 0 <= value <= 1e9)
gigabytes = _real("a number of gigabytes above 0, up to 1,000,000", lambda value: 0 < value <= 1e6)


def count_or_all(text: str) -> int | None:
    """At least 1, or None for all."""
    return None if text in ("None", "all") else count(text)


def names(text: str) -> list[str]:
    """One name or several, a,b."""
    found = [name for part in text.split(",") if (name := part.strip())]
    if not found:
        raise argparse.ArgumentTypeError(f"{shorten(text)!r}: it names nothing; give one or several, a,b")
    return found


def words(text: str) -> list[str]:
    """One word or several, a,b or "a b"."""
    return names(",".join(text.split()))


def counts(text: str) -> list[int]:
    """One whole number or several, 1,2 or "1 2"."""
    return [count(word) for word in words(text)]


def device(text: str) -> str:
    """A device as PyTorch names it. Whether it is there is seen when PyTorch is loaded."""
    if not re.fullmatch(r"(auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?)", text):
        raise argparse.ArgumentTypeError(f"{shorten(text)!r} is no device; use cpu, cuda or cuda:N")
    return text


def refuse_reversed(arguments: argparse.Namespace, low: str, high: str) -> None:
    """Raise UsageError where the first of two flags that bound a number is above the second."""
    least, most = (getattr(arguments, flag) for flag in (low, high))
    if least is not None and most is not None and least > most:
        raise UsageError(f"--{low} {least} is above --{high} {most}")
