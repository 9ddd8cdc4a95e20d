"""Asking for an act: of systemd, which starts a process for it, else of a process of our own."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tinyagentos import proc
from tinyagentos.acts.table import Act, MakeBase, MendCheck
from tinyagentos.config import Settings
from tinyagentos.host.check import Check
from tinyagentos.host.server import is_hosts_own, python_path
from tinyagentos.host.units import ACT_LISTENS
from tinyagentos.incus import Incus
from tinyagentos.model.errors import ALL_ERRORS, HostNotReady, TaosError
from tinyagentos.model.recipe import Recipe

Report = Callable[[str], None]
LINE_BYTES = 16 * 1024 * 1024
_ERRORS = {error.code: error for error in ALL_ERRORS}


@dataclass
class _Answer:
    """What a helper has said so far."""

    report: Report
    result: str | None = None
    error: TaosError | None = None

    def take(self, line: str) -> None:
        """Read a line; what is none of the protocol's is a helper's log."""
        try:
            told = json.loads(line)
        except ValueError:
            return
        match told:
            case {"report": str(text)}:
                self.report(text)
            case {"result": str(text)}:
                self.result = text
            case {"error": str(code), "message": str(message), "hint": str(hint)}:
                self.error = _ERRORS.get(code, TaosError)(message, hint=hint)

    def get(self) -> str:
        """The result; raises the error that the helper ended with."""
        if self.error:
            raise self.error
        if self.result is None:
            raise HostNotReady(
                "The helper for what needs root ended without an answer.",
                hint="`journalctl -u 'taos-act@*'` has its words.",
            )
        return self.result


class Acts:
    """The acts as the server asks for them."""

    def __init__(self, settings: Settings, listens: Path = ACT_LISTENS) -> None:
        self._settings = settings
        self._listens = listens

    async def make_base(self, incus: Incus, base: Recipe, arch: str, report: Report) -> str:
        """Have the base made on this host and put into the project; its fingerprint."""
        return await self.do(MakeBase(base.name, arch, incus.project), report)

    async def mend(self, check: Check, report: Report) -> None:
        """Have the check made to pass."""
        await self.do(MendCheck(check.name), report)

    async def do(self, act: Act, report: Report) -> str:
        """The act's result. Raises the TaosError it ended with; a caller's cancelling ends it."""
        answer = _Answer(report)
        line = json.dumps({"act": act.name, **asdict(_value(act))}).encode() + b"\n"
        if is_hosts_own(self._settings) and self._listens.is_socket():
            await self._by_systemd(line, answer, act.within)
        else:
            await proc.run(
                sys.executable, "-P", "-m", "tinyagentos.acts", stdin=line, on_line=answer.take,
                within=act.within, env={"PYTHONPATH": python_path(), **self._environment()},
            )  # fmt: skip
        return answer.get()

    async def _by_systemd(self, line: bytes, answer: _Answer, within: float) -> None:
        try:
            reader, writer = await asyncio.open_unix_connection(self._listens, limit=LINE_BYTES)
        except OSError as error:
            raise HostNotReady(
                f"The helper for what needs root does not start: {error.strerror}.",
                hint="Run `taos restart`.",
            ) from error
        try:
            async with asyncio.timeout(within):
                writer.write(line)
                async for said in reader:
                    answer.take(said.decode(errors="replace"))
        except TimeoutError as error:
            raise HostNotReady(f"It did not end within {within:.0f} s.") from error
        finally:
            writer.close()

    def _environment(self) -> dict[str, str]:
        """The settings that a process of ours would not find by itself."""
        settings = self._settings
        return {
            "TAOS_DATA_DIR": str(settings.data_dir),
            "TAOS_RUN_DIR": str(settings.run_dir),
            "TAOS_INCUS_SOCKET": str(settings.incus_socket),
            "TAOS_INCUS_PROJECT": settings.incus_project,
        }


def _value(act: Act) -> Any:  # noqa: ANN401 - every act is a dataclass, which a protocol cannot say
    return act
