"""Choosing models: lines to type in that offer what the providers told of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from nicegui import ui

from tinyagentos.model.provider import MOST_FALLBACKS, ModelRef, parse_model
from tinyagentos.web.checked import Checked
from tinyagentos.web.frame import Site, put, show
from tinyagentos.web.limits import read_model
from tinyagentos.web.markup import el

_numbers = count()


class ModelOffer:
    """The models that can be chosen, for all fields of a page that choose one.

    The browser itself offers them (<datalist>): by arrow keys, by a part of the name, and to screen
    readers. One that no provider told of can be typed.
    """

    def __init__(self, site: Site) -> None:
        self._providers = site.services.providers
        self._id = f"models-{next(_numbers)}"
        self._list = show().style("display:none")
        self.refresh()

    def refresh(self) -> None:
        """Offer what is known now; nobody is asked."""
        options = (el("option", value=str(one)) for one in self._providers.known_models())
        put(self._list, el("datalist", *options, id=self._id))

    @property
    def providers(self) -> tuple[str, ...]:
        """The names of the providers that are known."""
        return tuple(one.name for one in self._providers.list_known())

    def say_default(self) -> str:
        """What an agent uses that chose none."""
        known = self._providers.known_default()
        return f"Empty: {known}, the default of this host." if known else "Empty: the default."

    def field(self, label: str, hint: str = "", value: str = "") -> Checked[str]:
        """A line for one model, read as PROVIDER/MODEL or nothing."""
        return Checked(
            label, lambda text: read_model(text, self.providers), hint, value, list=self._id,
            placeholder="PROVIDER/MODEL", autocapitalize="none", spellcheck="false",
        )  # fmt: skip


class ModelList:
    """An agent's models, best first: a line for each, and a button for one more."""

    def __init__(self, site: Site, models: Sequence[str]) -> None:
        self._offer = ModelOffer(site)
        self._fields: list[Checked[str]] = []
        self._lines = ui.element("div").classes("stack")
        self._more = site.button("Another to fall back to", self._add, "small", "plus")
        for model in models or ("",):
            self._add(model)

    def read(self) -> tuple[ModelRef, ...]:
        """The models in their order, without the empty lines; InvalidInput is said at its line."""
        given = [field.read() for field in self._fields]
        return tuple(parse_model(one) for one in given if one)

    def _add(self, model: str = "") -> None:
        number = len(self._fields)
        label = f"Fallback {number}" if number else "Model"
        hint = "Used when those above cannot answer." if number else self._offer.say_default()
        with self._lines:
            self._fields.append(self._offer.field(label, hint, model))
        self._more.visible = number < MOST_FALLBACKS
