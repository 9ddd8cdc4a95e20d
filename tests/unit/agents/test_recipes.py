"""The frameworks in the order that people choose from."""

from __future__ import annotations

from tinyagentos.agents.recipes import agent_recipes, in_order
from tinyagentos.factory.recipe import list_recipes, load_recipe
from tinyagentos.model.agent import DEFAULT_FRAMEWORK


def test_the_default_framework_is_first_and_the_others_follow_by_title() -> None:
    names = list(agent_recipes())
    assert names == [DEFAULT_FRAMEWORK, "hermes-agent", "opencode"]
    backwards = [load_recipe(name) for name in reversed(list_recipes())]
    assert [recipe.name for recipe in in_order(backwards)] == names
