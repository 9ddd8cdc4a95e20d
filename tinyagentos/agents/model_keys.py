"""How an instance keeps which models its agent uses."""

from __future__ import annotations

from collections.abc import Mapping

from tinyagentos.agents.order import BUDGET_KEY, FALLBACK_KEY, MODEL_KEY
from tinyagentos.model.errors import InvalidInput
from tinyagentos.model.provider import ModelChoice, parse_model


def read_choice(config: Mapping[str, str]) -> ModelChoice:
    """The choice in an instance's config; what cannot be read counts as not chosen."""
    named = [config.get(MODEL_KEY, ""), *config.get(FALLBACK_KEY, "").split(",")]
    models = []
    for text in filter(None, named):
        try:
            models.append(parse_model(text))
        except InvalidInput:
            continue
    budget = config.get(BUDGET_KEY, "")
    return ModelChoice(tuple(models), int(budget) if budget.isdecimal() else 0)


def write_choice(choice: ModelChoice) -> Mapping[str, str]:
    """The choice as an instance's config keeps it; empty values unset a key."""
    first, *others = map(str, choice.models) if choice.models else ("",)
    return {
        MODEL_KEY: first,
        FALLBACK_KEY: ",".join(others),
        BUDGET_KEY: str(choice.monthly_tokens) if choice.monthly_tokens else "",
    }
