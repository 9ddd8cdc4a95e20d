"""Models: the providers that agents think with, and whether they answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from markupsafe import Markup
from nicegui import ui

from tinyagentos.model.errors import TaosError
from tinyagentos.model.provider import USUAL_URL, NewProvider, Provider, ProviderKind
from tinyagentos.web.frame import (
    Site,
    choices,
    confirm,
    empty,
    frame,
    put,
    sheet,
    show,
    tell,
    text_field,
)
from tinyagentos.web.markup import el, facts, notice
from tinyagentos.web.refresh import Refresh

KINDS = {
    ProviderKind.anthropic: ("Anthropic", "Claude models; needs a key."),
    ProviderKind.openai: ("OpenAI or alike", "Any service that speaks as OpenAI does."),
    ProviderKind.ollama: ("Ollama", "Models on a machine of yours; needs no key."),
}
SHOWN = 12


def register(site: Site) -> None:
    """Make the page known."""

    @ui.page("/models")
    async def page() -> None:
        ModelsPage(site).build()


class ModelsPage:
    """The page in one browser."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def build(self) -> None:
        """Build it of what is known; a provider is asked only when somebody wants that."""
        with frame("Models", "models") as beside:
            with beside:
                self._site.button("Add a provider", self._open_sheet, "primary", "plus")
            text = (
                "Agents think with models of a provider. Its key stays on this host: "
                "agents ask through it and never see the key."
            )
            show(el("p", text, class_="quiet"))
            self._list = ui.element("div").classes("stack")
        self._show()
        Refresh(self._look, "look for models on this host")()

    async def _look(self) -> None:
        """Show an Ollama that runs here, if there is one now."""
        known = self._site.services.providers.list_known()
        if await self._site.services.providers.list_providers() != known:
            self._show()

    def _show(self) -> None:
        providers = self._site.services.providers.list_known()
        default = self._site.services.providers.known_default()
        self._list.clear()
        with self._list:
            if not providers:
                text = "Add a provider, and every agent can answer."
                with empty("models", "No model yet", text):
                    for kind, (label, _) in KINDS.items():
                        self._site.button(label, partial(self._open_sheet, kind))
            for one in providers:
                is_default = default is not None and default.provider == one.name
                self._card(one, is_default=is_default)

    def _card(self, provider: Provider, *, is_default: bool) -> None:
        site, name = self._site, provider.name
        with ui.element("section").classes("card stack").props(f'aria-label="{name}"'):
            said = "Used by agents that chose no model." if is_default else ""
            show(Markup("").join([
                el("h2", name),
                el("p", "Found on this host.", class_="quiet") if provider.found else "",
                el("p", said, class_="quiet") if said else "",
            ]))  # fmt: skip
            about = show(render_provider(provider))
            result = show().props("role=status aria-live=polite")

            async def test() -> None:
                put(result, el("p", "Asking …", class_="quiet"))
                put(result, await self._try(name))
                known = {one.name: one for one in site.services.providers.list_known()}
                put(about, render_provider(known.get(name, provider)))

            def remove() -> None:
                site.services.providers.remove(name)
                self._show()

            with ui.element("div").classes("row"):
                site.button("Test", test)
                if not provider.found:
                    site.button("Change", partial(self._open_sheet, provider.kind, provider))
                    text = "Its key is forgotten. Agents go on with their other models, if any."
                    ask = confirm(site, f"Remove {name}?", text, "Remove", remove)
                    site.button("Remove", ask.open, "danger")

    async def _try(self, name: str) -> Markup:
        """What the provider says, in words."""
        try:
            tested = await self._site.services.providers.test(name)
        except TaosError as error:
            return notice("fail", *self._site.explain(error))
        listed = list_models(tested.models) or "none"
        return notice("ok", f"It answers in {tested.seconds:.1f} s.", f"Models: {listed}.")

    def _open_sheet(
        self, kind: ProviderKind = ProviderKind.anthropic, old: Provider | None = None
    ) -> None:
        site, chosen = self._site, [kind]
        with sheet(f"Change {old.name}" if old else "Add a provider") as dialog:

            def choose(key: str) -> None:
                chosen[0] = ProviderKind(key)
                name.box._props["placeholder"] = key
                url.box._props["placeholder"] = USUAL_URL[chosen[0]]
                name.box.update()
                url.box.update()

            if not old:
                options = {one.value: said for one, said in KINDS.items()}
                choices("Kind", options, kind.value, choose)
            name = text_field(
                "Name", old.name if old else "", "Empty: as its kind.", autocapitalize="none",
                placeholder=kind.value, spellcheck="false",
            )  # fmt: skip
            if old:
                name.box.props("readonly")
            url = text_field(
                "Address", old.url if old else "", "Empty: the usual one of its kind.",
                autocapitalize="none", placeholder=USUAL_URL[kind], inputmode="url",
            )  # fmt: skip
            said = "Empty: the one that is kept stays." if old and old.has_key else ""
            key = text_field("Key", "", said or "Empty if it needs none.", type="password")
            model = text_field(
                "Model for agents that chose none", old.model if old else "",
                "Empty: its first one.", autocapitalize="none", spellcheck="false",
            )  # fmt: skip
            wrong = show().props("role=status")

            async def save() -> None:
                called = name.value.strip() or chosen[0].value
                new = NewProvider(
                    called, chosen[0], url.value.strip(), model.value.strip(), key.value.strip()
                )
                try:
                    await site.services.providers.add(new)
                except TaosError as error:
                    put(wrong, notice("fail", *site.explain(error)))
                    return
                put(wrong, el("p", f"{called} is kept. Asking it for its models …", class_="quiet"))
                try:
                    tested = await site.services.providers.test(called)
                except TaosError as error:
                    # It is kept: a typing error is mended with Change, an outage by waiting.
                    tell(*site.explain(error), kind="fail")
                else:
                    tell(f"{called} answers and has {len(tested.models)} models.")
                dialog.close()
                self._show()

            with ui.element("div").classes("actions"):
                site.button("Cancel", dialog.close)
                site.button("Save and test", save, "primary")
        dialog.on("hide", dialog.delete)
        dialog.open()


def render_provider(provider: Provider) -> Markup:
    """What is known of the provider."""
    return facts({
        "Kind": KINDS[provider.kind][0],
        "Address": el("code", provider.url),
        "Model": provider.model or "not chosen yet",
        "Key": "kept" if provider.has_key else "none",
        "Offers": list_models(provider.models) or "not known before its first test",
    })  # fmt: skip


def list_models(models: Sequence[str]) -> str:
    """The first of the models by name, and how many more there are."""
    names, more = ", ".join(models[:SHOWN]), len(models) - SHOWN
    return f"{names} and {more} more" if more > 0 else names
