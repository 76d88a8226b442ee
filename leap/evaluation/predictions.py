"""predictions.jsonl: a model's answers as they came, one line each, read and written whole; what they took."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from leap.inference.protocol import Response
from leap.records.benchmark import Prediction
from leap.records.files import write_atomic
from leap.records.json_files import jsonl_line, read_store, split_store

Key = tuple[str, str]  # task, example number


def read_repeats(path: Path) -> list[dict[Key, Prediction]]:
    """The last prediction of each example in the file, for each repeat of the evaluation; none where there is no file
    yet. There is one repeat at least."""
    found: list[dict[Key, Prediction]] = [{}]
    for record in read_store(path, Prediction):
        found += [{} for _ in range(len(found), record.repeat + 1)]
        found[record.repeat][record.task, record.example] = record
    return found


def read_predictions(path: Path) -> dict[Key, Prediction]:
    """Those of the first repeat, which is all of an evaluation that asked once."""
    return read_repeats(path)[0]


def write_predictions(path: Path, predictions: Iterable[Prediction]) -> None:
    """Replace the file where it does not hold just these lines in this order.

    Lines of it that cannot be read are kept in predictions.unreadable.jsonl.
    """
    content = b"".join(map(jsonl_line, predictions))
    if not path.is_file() or path.read_bytes() != content:
        if unreadable := split_store(path, Prediction)[1]:
            kept = path.with_name(f"{path.stem}.unreadable.jsonl")
            before = kept.read_bytes() if kept.is_file() else b""
            write_atomic(kept, before + b"".join(lost.line.rstrip() + b"\n" for lost in unreadable))
        write_atomic(path, content)


def as_prediction(response: Response, request: str) -> Prediction:
    """An answer as a line of the file; `request` is the sha256 of what the model was shown."""
    (task, example), repeat = example_and_repeat(response.key)
    fields = {name: getattr(response, name) for name in ("text", "finish", "prompt_tokens", "new_tokens", "error")}
    return Prediction(task=task, example=example, repeat=repeat, request=request, **fields)


def repeat_key(key: tuple[str, ...], repeat: int) -> tuple[str, ...]:
    """The key of an example's request when it is asked again; the first time has the plain one."""
    return (*key, str(repeat)) if repeat else key


def example_and_repeat(key: tuple[str, ...]) -> tuple[Key, int]:
    """Which example, and which repeat of it, a request or response with this key is about."""
    _, task, example, *repeat = key
    return (task, example), int(repeat[0]) if repeat else 0


def usage_and_cost(
    predictions: Iterable[Prediction], input_price: float | None = None, output_price: float | None = None
) -> dict[str, Any]:
    """Tokens of all answers, refused ones too, and their cost at prices in USD per million tokens.

    `cost_usd` is None where a price is unknown or where no answer came with its tokens. Answers without usage are
    counted, not guessed: with any of them the tokens and the cost are lower bounds. So they are where requests had to
    be repeated, since only the last answers are seen here.
    """
    found = [(prediction.prompt_tokens, prediction.new_tokens, prediction.error) for prediction in predictions]
    counted = [(prompt, new) for prompt, new, _ in found if prompt is not None and new is not None]
    uncounted = sum(error is None and None in (prompt, new) for prompt, new, error in found)
    prompt, new = sum(prompt for prompt, _ in counted), sum(new for _, new in counted)
    cost = None
    if input_price is not None and output_price is not None and (counted or not uncounted):
        cost = (prompt * input_price + new * output_price) / 1e6
    return {
        "prompt_tokens": prompt,
        "new_tokens": new,
        "answers_without_usage": uncounted,
        "cost_usd": cost,
    }
