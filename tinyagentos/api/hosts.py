"""Under which names this server answers, and what somebody sees who uses another one."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from html import escape

from starlette.responses import HTMLResponse, Response

from tinyagentos.config import SETTINGS_FILE, Settings
from tinyagentos.visible import visible_line

LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
ANY_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared, not bound


@dataclass(frozen=True)
class HostNames:
    """The names of this server.

    A web page of somebody else whose name resolves to this machine (DNS rebinding) sends its own
    name as Host, which is none of these. It cannot send an address: then it would not be its page.
    """

    names: frozenset[str]

    @classmethod
    def of(cls, settings: Settings, hostname: str) -> HostNames:
        """Those of the settings and of the machine. hostname: what the machine calls itself."""
        machine = hostname.lower()
        short = machine.partition(".")[0]
        given = (one.strip().lower() for one in settings.names.split(","))
        names = {settings.host.lower(), machine, short, f"{short}.local" if short else "", *given}
        return cls(LOCAL | names - ANY_ADDRESS - {""})

    def accept(self, header: str) -> bool:
        """Whether the Host header is one of ours, or an address."""
        host = bare_host(header)
        return host.removesuffix(".") in self.names or is_address(host)


def bare_host(header: str) -> str:
    """The host of a Host header, without port and brackets."""
    if header.startswith("["):
        return header[1:].partition("]")[0].lower()
    return header.partition(":")[0].lower()


def is_address(host: str) -> bool:
    """Whether it is an IP address as it is written."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def other_name_page(header: str, address: str) -> Response:
    """For a person who asked by a name that is none of ours. address: where we are."""
    name = escape(visible_line(bare_host(header)[:200]))
    body = f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>taOS</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>:root {{ color-scheme: light dark }} body {{ font: 1rem/1.5 system-ui, sans-serif;
 max-width: 34rem; margin: 12vh auto; padding: 0 1.25rem; overflow-wrap: anywhere }}
 h1 {{ font-size: 1.4rem; line-height: 1.3 }} code {{ font-size: .95em }}</style></head>
<body><main><h1>taOS does not answer under the name <code>{name}</code></h1>
<p>Any name can be made to lead here, also by a web page that means harm. So only names that
you chose count.</p>
<p>Open <a href="{escape(address)}">{escape(address)}</a>, or make the name one of taOS's: write
<code>names = "{name}"</code> into <code>{SETTINGS_FILE}</code> on the machine, then start the
server again.</p></main></body></html>"""
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return HTMLResponse(body, 421, {"Cache-Control": "no-store", "Content-Security-Policy": policy})
