"""What a model's answers took, in tokens and in money."""

from collections.abc import Iterable
from typing import Any

from leap.records.benchmark import Prediction


def usage_and_cost(
    predictions: Iterable[Prediction], input_price: float | None = None, output_price: float | None = None
) -> dict[str, Any]:
    """Tokens of all answers and their cost at prices in USD per million tokens.

    `cost_usd` is None where a price is unknown or where no answer came with its tokens. Answers without usage are
    counted, not guessed: with any of them the tokens and the cost are lower bounds. So they are where requests had to
    be repeated, since only answers are seen here.
    """
    answers = [prediction for prediction in predictions if prediction.error is None]
    counted = [
        (answer.prompt_tokens, answer.new_tokens)
        for answer in answers
        if answer.prompt_tokens is not None and answer.new_tokens is not None
    ]
    prompt, new = sum(prompt for prompt, _ in counted), sum(new for _, new in counted)
    cost = None
    if input_price is not None and output_price is not None and (counted or not answers):
        cost = (prompt * input_price + new * output_price) / 1e6
    return {
        "prompt_tokens": prompt,
        "new_tokens": new,
        "answers_without_usage": len(answers) - len(counted),
        "cost_usd": cost,
    }
