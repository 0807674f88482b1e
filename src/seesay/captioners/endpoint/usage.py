"""Tokens that a server used, and their cost."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seesay.data.records import count
from seesay.errors import ConfigError

Price = tuple[float, float]
"""Prices of a million prompt tokens and of a million completion tokens."""


@dataclass
class Usage:
    """Requests and tokens of a captioner.

    Attributes:
        price: prices; None: unknown.
        requests: number of requests for captions that were sent.
        repeated: those of them that repeated a failed one.
        prompt_tokens: tokens of prompts and images.
        completion_tokens: generated tokens.
    """

    price: Price | None = None
    requests: int = 0
    repeated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def count_request(self, attempt: int) -> None:
        """Count a request that is sent, from its number of the attempt."""
        self.requests += 1
        self.repeated += attempt > 1

    def add(self, answer: Mapping[str, Any]) -> None:
        """Add the `usage` of a response; a missing one counts as zero tokens."""
        found = answer.get("usage")
        usage = found if isinstance(found, Mapping) else {}
        self.prompt_tokens += _count(usage.get("prompt_tokens"))
        self.completion_tokens += _count(usage.get("completion_tokens"))

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Requests, repeated ones, prompt tokens and completion tokens."""
        return self.requests, self.repeated, self.prompt_tokens, self.completion_tokens

    def add_counts(self, counts: Iterable[int]) -> None:
        """Add the `counts` of another captioner."""
        totals = map(sum, zip(self.counts, counts, strict=True))
        self.requests, self.repeated, self.prompt_tokens, self.completion_tokens = totals

    @property
    def cost(self) -> float | None:
        """Cost of all tokens, in the currency of the price; None if the price is unknown."""
        if self.price is None:
            return None
        return (self.price[0] * self.prompt_tokens + self.price[1] * self.completion_tokens) / 1e6

    def describe(self) -> str:
        """Return a line with all figures; empty if there was no request."""
        if not self.requests:
            return ""
        cost = "" if self.cost is None else f", cost {self.cost:.4f}"
        repeated = f", {self.repeated:,} repeated" if self.repeated else ""
        tokens = f"{count(self.prompt_tokens, 'prompt token')}, {count(self.completion_tokens, 'completion token')}"
        return f"{count(self.requests, 'request')}{repeated}, {tokens}{cost}"


def read_price(text: str) -> Price | None:
    """Return the prices in a text such as `0.15,0.6`; None if it is empty.

    Raises:
        ConfigError: not two numbers of at least 0.
    """
    if not text:
        return None
    try:
        prompt, completion = map(float, text.split(","))
    except ValueError:
        prompt = completion = math.nan
    if not (0 <= prompt < math.inf and 0 <= completion < math.inf):
        raise ConfigError(f"--endpoint-price {text} is not two prices per million tokens, such as 0.15,0.6")
    return prompt, completion


def _count(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0
