"""Model providers, and which model an agent uses."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

from tinyagentos.model.errors import InvalidInput

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
LONGEST_URL = 500
LONGEST_KEY = 4000
LONGEST_MODEL = 200
MOST_FALLBACKS = 5
MOST_TOKENS = 10**12


# Where no provider is, but where the host may find what is only for itself: this network,
# link-local addresses with the metadata services of clouds, groups, reserved ones (RFC 6890), and
# the metadata services that have another address. Loopback and private networks stay open, for
# models at home.
CLOSED = tuple(map(ip_network, (
    "0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "100.100.100.200/32",
    "168.63.129.16/32", "::/128", "fe80::/10", "ff00::/8", "fd00:ec2::254/128", "fd20:ce::254/128",
)))  # fmt: skip
NAT64 = ip_network("64:ff9b::/96")


class ProviderKind(StrEnum):
    """What a provider speaks."""

    openai = "openai"
    anthropic = "anthropic"
    ollama = "ollama"


# Where a kind is found when nobody says otherwise.
USUAL_URL = {
    ProviderKind.openai: "https://api.openai.com/v1",
    ProviderKind.anthropic: "https://api.anthropic.com",
    ProviderKind.ollama: "http://127.0.0.1:11434",
}


@dataclass(frozen=True)
class Provider:
    """Where models are. url: without the path of a call; for openai it ends in the version (/v1).

    model: the one used by agents that chose none; empty when there is none.
    found: whether it runs on this host and nobody had to add it. models: those it told of last.
    """

    name: str
    kind: ProviderKind
    url: str
    model: str = ""
    has_key: bool = False
    found: bool = False
    models: tuple[str, ...] = ()

    @property
    def default(self) -> str:
        """The model it offers to agents that chose none, as far as that is known; else empty."""
        return self.model or next(iter(self.models), "")


@dataclass(frozen=True)
class NewProvider:
    """A provider as somebody adds it; url empty: the usual one of its kind."""

    name: str
    kind: ProviderKind
    url: str = ""
    model: str = ""
    key: str = field(default="", repr=False)


@dataclass(frozen=True)
class ProviderTest:
    """What a provider said when it was asked for its models."""

    models: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class ModelRef:
    """One model of one provider."""

    provider: str
    model: str

    @classmethod
    def default_of(cls, provider: Provider) -> ModelRef | None:
        """The model that the provider offers to agents that chose none, if any is known."""
        return cls(provider.name, provider.default) if provider.default else None

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True)
class ModelChoice:
    """The models an agent uses, best first (none: the default), and its tokens a month (0: any)."""

    models: tuple[ModelRef, ...] = ()
    monthly_tokens: int = 0


@dataclass(frozen=True)
class ModelAccess:
    """What an agent may ask of models: which, and whether providers may fetch things for it."""

    choice: ModelChoice = ModelChoice()
    may_fetch: bool = True


@dataclass(frozen=True)
class Usage:
    """What an agent asked of models in a month."""

    requests: int = 0
    errors: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Both ways together."""
        return self.input_tokens + self.output_tokens

    def __add__(self, more: Usage) -> Usage:
        return Usage(
            self.requests + more.requests,
            self.errors + more.errors,
            self.input_tokens + more.input_tokens,
            self.output_tokens + more.output_tokens,
        )


@dataclass(frozen=True)
class AgentModels:
    """An agent's choice, and what it used of models this month and in those before (`2026-05`)."""

    choice: ModelChoice
    usage: Usage
    months: tuple[tuple[str, Usage], ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """The chosen models by name; empty: the default."""
        return tuple(map(str, self.choice.models))

    @property
    def monthly_tokens(self) -> int:
        """The budget, 0: none."""
        return self.choice.monthly_tokens


def checked(new: NewProvider) -> NewProvider:
    """The provider with what was left open filled in; InvalidInput says what cannot be used."""
    if not _NAME.fullmatch(new.name):
        raise InvalidInput(
            f"{new.name[:60]!r} cannot be a provider's name.",
            hint="Use up to 40 lower-case letters, digits and hyphens.",
        )
    if len(new.model) > LONGEST_MODEL or not (new.model + "x").isprintable():
        raise InvalidInput("The model's name cannot be used.", hint="`taos provider test` lists.")
    if len(new.key) > LONGEST_KEY or not new.key.isascii() or not (new.key + "x").isprintable():
        raise InvalidInput("The key cannot be used.", hint="It is one line without blanks.")
    return replace(new, url=_checked_url(new.url or USUAL_URL[new.kind]), key=new.key.strip())


def is_closed(address: str) -> bool:
    """Whether the address (an IP address as text) is one where no provider can be.

    Addresses of IPv6 that lead to one of IPv4 count as that one.
    """
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return True
    return any(one in network for one in (found, *_within(found)) for network in CLOSED)


def _within(address: IPv4Address | IPv6Address) -> tuple[IPv4Address, ...]:
    """The addresses of IPv4 that an address of IPv6 has in it (mapped, 6to4, Teredo, NAT64)."""
    if isinstance(address, IPv4Address):
        return ()
    last = IPv4Address(int(address) & 0xFFFFFFFF)
    is_compatible = int(address) >> 32 == 0 and int(address) > 1
    inner = (address.ipv4_mapped, address.sixtofour, *(address.teredo or ()),
             last if address in NAT64 or is_compatible else None)  # fmt: skip
    return tuple(one for one in inner if one is not None)


def _check_address(url: str, host: str) -> None:
    """InvalidInput when the host is written as an address where no provider can be."""
    try:
        ip_address(host)
    except ValueError:
        # 0xA9FEA9FE, 2852039166 and 169.254 are addresses to the system, and names to nobody.
        if not re.fullmatch(r"(0x[0-9a-f]*|[0-9]+)", host.rstrip(".").rpartition(".")[2], re.I):
            return
    else:
        if not is_closed(host):
            return
    raise InvalidInput(
        f"{url[:100]!r} is no address of a provider.",
        hint="Link-local, multicast and reserved addresses, those of a cloud's metadata service "
        "and unusual spellings of addresses are refused.",
    )


def _checked_url(url: str) -> str:
    hint = "Give one such as https://models.example/v1, without user, query or fragment."
    wrong = InvalidInput(f"{url[:100]!r} is no web address of a provider.", hint=hint)
    try:
        parts = urlsplit(url)
        is_fine = (
            parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
            and not (parts.username or parts.password or parts.query or parts.fragment)
        )  # fmt: skip
    except ValueError:
        raise wrong from None
    if not is_fine or len(url) > LONGEST_URL or not url.isascii() or not url.isprintable():
        raise wrong
    _check_address(url, parts.hostname or "")
    return url.rstrip("/")


def check_choice(choice: ModelChoice) -> None:
    """Return when the models can be used together, within the budget; else InvalidInput."""
    if len(choice.models) > 1 + MOST_FALLBACKS or len(set(choice.models)) < len(choice.models):
        raise InvalidInput(
            "These models cannot be used together.",
            hint=f"Give one model and up to {MOST_FALLBACKS} others to fall back to.",
        )
    if not 0 <= choice.monthly_tokens <= MOST_TOKENS:
        raise InvalidInput(f"A budget of {choice.monthly_tokens} tokens cannot be kept.")


def parse_model(text: str) -> ModelRef:
    """`provider/model` as two names; a model's own name may hold slashes."""
    provider, slash, model = text.partition("/")
    if not slash or not _NAME.fullmatch(provider) or not model or len(text) > LONGEST_MODEL:
        raise InvalidInput(
            f"{text[:60]!r} names no model.",
            hint="Write PROVIDER/MODEL; `taos provider list` shows the providers.",
        )
    if not model.isprintable() or "," in model or " " in model:
        raise InvalidInput(f"{text[:60]!r} names no model.", hint="A comma or blank cannot be in.")
    return ModelRef(provider, model)
