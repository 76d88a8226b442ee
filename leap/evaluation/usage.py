"""What a model's answers took, in tokens and in money."""

from collections.abc import Iterable
from typing import Any

from leap.records.benchmark import Prediction


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
