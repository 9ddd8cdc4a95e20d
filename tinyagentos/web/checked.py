"""Fields that are read as something: what is wrong with one is said at it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Generic, TypeVar

from nicegui import ui

from tinyagentos.model.errors import InvalidInput
from tinyagentos.web.frame import Field, text_field

T = TypeVar("T")


class Checked(Generic[T]):
    """A line to type in, checked when it is left and when it is read; else it says its hint."""

    def __init__(
        self, label: str, read: Callable[[str], T], hint: str = "", value: str = "", **more: str
    ) -> None:
        """read: what was typed as what it means, or InvalidInput. more: attributes of the line."""
        self._read = read
        self._hint = hint
        self.field: Field = text_field(label, value, hint, lambda _: self._accept(), **more)
        self.field.box.on("change", self.check, [])

    def read(self) -> T:
        """What the field means; InvalidInput is said at it, too."""
        try:
            found = self._read(self.field.value)
        except InvalidInput as error:
            refuse(self.field, error)
            raise
        self._accept()
        return found

    def check(self) -> None:
        """Say whether it can be read."""
        with contextlib.suppress(InvalidInput):
            self.read()

    def tell(self, hint: str, placeholder: str | None = None) -> None:
        """Another hint, and another text where nothing was typed."""
        self._hint = hint
        if placeholder is not None:
            self.field.box._props["placeholder"] = placeholder
            self.field.box.update()
        self.check()

    def _accept(self) -> None:
        accept(self.field, self._hint)


def refuse(field: Field, error: InvalidInput) -> None:
    """Say at the field what is wrong with what it holds."""
    field.say(f"{error.message} {error.hint}", wrong=True)
    field.box.props("aria-invalid=true")


def accept(field: Field, hint: str) -> None:
    """Nothing is wrong with the field."""
    field.say(hint)
    field.box.props(remove="aria-invalid")


def lead_to(field: Field) -> None:
    """Bring the person to the field, wherever it is folded away."""
    ui.run_javascript(
        f"const field = document.getElementById({json.dumps(field.box._props['id'])});"
        "const folded = field?.closest('details'); if (folded) folded.open = true;"
        "field?.focus();"
    )
