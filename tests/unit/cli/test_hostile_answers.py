"""Every command before a server whose every word is an agent's that means harm."""

from __future__ import annotations

import ast
import json
import socketserver
import sys
import threading
from collections.abc import Iterator, Sequence
from enum import Enum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import Match

from tests.documents import all_commands, is_group
from tests.fakes.hostile import EVIL, assert_harmless, hostile
from tests.unit.cli.conftest import Taos, Terminal
from tinyagentos import cli, wire
from tinyagentos.api import routes
from tinyagentos.cli.errors import FAILED, guarded
from tinyagentos.model.job import JobState

COMMANDS: tuple[Sequence[str], ...] = (
    ("agent", "deploy", "a"), ("agent", "deploy", "a", "--no-wait"), ("agent", "list"),
    ("agent", "show", "a"), ("agent", "logs", "a"), ("agent", "start", "a"),
    ("agent", "stop", "a"), ("agent", "restart", "a"), ("agent", "upgrade", "a", "b"),
    ("agent", "upgrade", "--all"), ("agent", "upgrade", "--all", "--undo"),
    ("agent", "snapshot", "a"), ("agent", "snapshots", "a"), ("agent", "restore", "a", "s"),
    ("agent", "drop-snapshot", "a", "s"), ("agent", "chat", "a", "hello"), ("agent", "model", "a"),
    ("agent", "set", "a", "--title", EVIL), ("agent", "network", "a", "none"),
    ("agent", "delete", "a", "--yes"), ("agent", "export", "a", "--to", "/x"),
    ("agent", "import", "/x"), ("agent", "kept"), ("agent", "drop-kept", EVIL),
    ("image", "list"), ("image", "download"), ("image", "cancel"), ("image", "cancel", "--discard"),
    ("image", "remove", EVIL), ("image", "policy"), ("image", "export", "openclaw", "--to", "/x"),
    ("image", "import", str(Path(__file__))), ("job", "list"), ("job", "show", "j"),
    ("job", "watch", "j"), ("job", "cancel", "j"), ("job", "retry", "j"),
    ("provider", "add", "openai", "--stdin"), ("provider", "list"), ("provider", "test", EVIL),
    ("provider", "remove", EVIL), ("web", "link"), ("web", "password", "--stdin"),
)  # fmt: skip
# `agent shell` is a terminal in the agent. The others ask no server for words.
NOT_ASKING = {
    ("agent", "shell"), ("serve",), ("stop",), ("restart",), ("help",), ("up",), ("setup",),
    ("doctor",), ("test",), ("image", "report"), ("image", "smoke"), ("image", "publish"),
    ("image", "verify"), ("image", "build"), ("image", "keys", "init"), ("image", "keys", "rotate"),
}  # fmt: skip
# All they print is what the agent said, in its lines.
ALONE = {("agent", "logs"), ("agent", "chat")}


class HostileServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Answers each route with its contract's shape, every string in it hostile."""

    daemon_threads = True
    status = 0
    ended = JobState.failed

    def handle_error(self, *_: object) -> None:
        """A command that has what it needs hangs up."""

    def routes(self) -> Iterator[APIRoute]:
        for found in iter_modules(routes.__path__):
            for one in vars(import_module(f"{routes.__name__}.{found.name}")).values():
                if isinstance(one, APIRouter):
                    yield from (route for route in one.routes if isinstance(route, APIRoute))

    def answer(self, method: str, path: str) -> tuple[int, str]:
        choose: dict[type[Enum], Enum] = {JobState: self.ended}
        if self.status:
            return self.status, json.dumps(hostile(wire.ProblemDetails, choose))
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        if path.endswith("/logs"):
            return 200, EVIL
        if path.endswith("/chat"):
            return 200, f"event: text\ndata: {json.dumps({'text': EVIL})}\n\n"
        if path.endswith("/events"):
            job = json.dumps(hostile(wire.Job, choose), ensure_ascii=False)  # as the server does
            return 200, f"data: {job}\n\n"
        [route] = [one for one in self.routes() if one.matches(scope)[0] is Match.FULL][:1]
        if route.response_model is None:
            return 204, ""
        return 200, json.dumps(hostile(route.response_model, choose))


class Handler(BaseHTTPRequestHandler):
    server: HostileServer

    def do(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        status, body = self.server.answer(self.command, self.path.partition("?")[0])
        content = body.encode()
        self.send_response(HTTPStatus(status), "OK")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do  # noqa: N815 - http.server's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[HostileServer]:
    """The server that the commands find."""
    with HostileServer(str(tmp_path / "taos.sock"), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_every_command_is_tried() -> None:
    tried = {argv[: 1 + (len(argv) > 1)] for argv in COMMANDS} | NOT_ASKING
    assert {one for one in all_commands() if not is_group(one)} == tried


@pytest.mark.parametrize("ended", [JobState.failed, JobState.succeeded, JobState.cancelled])
@pytest.mark.parametrize("argv", COMMANDS, ids=lambda one: " ".join(one)[:30].encode().hex())
def test_no_words_reach_the_terminal_as_they_are(
    argv: Sequence[str], ended: JobState, evil: HostileServer, taos: Taos,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    evil.ended = ended
    alone = tuple(argv[:2]) in ALONE
    piped = run(taos, argv, monkeypatch)
    assert_harmless(piped[0], alone=alone)
    assert_harmless(piped[1])
    machine = run(taos, (*argv, "--json"), monkeypatch)[0]
    assert machine.isascii()
    assert_harmless(machine)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    errors = run(taos, argv, monkeypatch)[1]
    assert_harmless(errors)
    assert_harmless(terminal.getvalue(), terminal=True, alone=alone)
    assert "Traceback" not in errors + piped[1]


@pytest.mark.parametrize("argv", COMMANDS, ids=lambda one: " ".join(one)[:30].encode().hex())
def test_nor_do_those_of_an_error(
    argv: Sequence[str], evil: HostileServer, taos: Taos, monkeypatch: pytest.MonkeyPatch
) -> None:
    evil.status = 404
    out, errors = run(taos, argv, monkeypatch)
    assert_harmless(out)
    assert_harmless(errors)
    assert "  | " in errors, "the lines after the first are a quotation"


def test_nor_do_those_of_an_error_that_nobody_expected(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise ValueError(EVIL)

    assert guarded(fail) == FAILED
    said = capsys.readouterr().err
    assert "ValueError: \\x1b]0;owned" in said
    assert_harmless(said)


def test_no_module_writes_to_the_terminal_by_itself() -> None:
    allowed = {"screen.py", "shell.py"}
    for file in Path(cli.__file__).parent.glob("*.py"):
        if file.name not in allowed:
            found = list(writes_of(ast.parse(file.read_text())))
            assert not found, f"{file.name} writes past screen.py: {found}"


def writes_of(tree: ast.AST) -> Iterator[str]:
    """The calls that write to standard output or error, or to a terminal."""
    forbidden = {"print", "input", "echo", "secho", "prompt", "confirm", "getpass", "Console"}
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if (
                name in forbidden and not is_screen(node.func)
            ):
                yield ast.unparse(node)
            case ast.Attribute(
                value=ast.Attribute(value=ast.Name(id="sys"), attr="stdout" | "stderr"), attr=what
            ) if what != "isatty":
                yield ast.unparse(node)


def is_screen(called: ast.expr) -> bool:
    return isinstance(called, ast.Attribute) and "Screen(" in ast.unparse(called.value)


def test_the_finder_of_writes_finds_them() -> None:
    text = "sys.stdout.write(x); sys.stderr.buffer; print(1); typer.echo(1); Console().print(2)"
    assert len(list(writes_of(ast.parse(text)))) == 6
    assert not list(writes_of(ast.parse("sys.stdout.isatty(); Screen().print(1)")))


def run(taos: Taos, argv: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """What the command said on standard output and error."""
    monkeypatch.setattr(sys, "stdin", Terminal("a password of many letters\n" * 3))
    ended = taos(*argv)
    return ended.out, ended.err
