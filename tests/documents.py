"""The commands in documents, read as the command line reads them and never carried out."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator, Sequence

import typer
from typer.core import TyperGroup

from tinyagentos.cli import app

FENCE = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:sudo )?(?:\./)?taos(?: [^`]*)?)`")
# Of every command, or of every one that begins a job: a summary says so once.
EVERYWHERE = {"--help", "--json", "--wait", "--no-wait"}


def commands_in(page: str) -> list[tuple[str, ...]]:
    """What follows `taos` in the lines of a page's code blocks, whatever language they name."""
    lines = (line.strip() for block in FENCE.findall(page) for line in block.splitlines())
    return [words for line in lines if (words := words_after_taos(line)) is not None]


def mentions_in(text: str) -> Iterator[tuple[str, ...]]:
    """What follows `taos` where a sentence names a command; it may be a part of one."""
    for found in INLINE.findall(text):
        yield tuple(found.removeprefix("sudo ").split()[1:])


def sentences_of(source: str) -> Iterator[str]:
    """Every text in a module's code, docstrings left out; what is filled in later is `...`."""
    tree = ast.parse(source)
    within: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr):
            within.add(node.value)  # a docstring: nobody is shown it
        elif isinstance(node, ast.JoinedStr) and node not in within:
            within |= set(node.values)
            yield "".join(
                str(part.value) if isinstance(part, ast.Constant) else "..." for part in node.values
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in within:
            yield node.value


def says(sentence: str, quoted: str) -> bool:
    """Whether the sentence has what is quoted of it, where `...` is anything."""
    parts = (re.escape(part.strip(" ")) for part in quoted.split("..."))
    return re.search(r".*".join(parts), sentence, re.DOTALL) is not None


def words_after_taos(line: str) -> tuple[str, ...] | None:
    """The words given to our command, without a comment; None: the line is no command of ours."""
    if not re.match(r"(sudo )?(\./)?taos( |$)", line):
        return None
    words = shlex.split(line, comments=True)
    return tuple(words[2:] if words[0] == "sudo" else words[1:])


def read_command(words: Sequence[str]) -> None:
    """Have the command line read the words up to where it would begin to work.

    Raises what it raises for a person: no such command, no such option, an argument that is
    missing, a value that cannot be one.
    """
    command, path, rest = find_command(words)
    if isinstance(command, TyperGroup):
        # The options of a group act as soon as they are read (--install-completion does), so
        # they are only looked up.
        assert rest, f"taos {' '.join(path)} is no command"
        assert set(rest) <= options_of(command), f"taos {' '.join(words)} is no command"
    elif "--help" not in rest:
        command.make_context(" ".join(("taos", *path)), list(rest))


def unknown_in(words: Sequence[str]) -> list[str]:
    """Commands and options among the words that are not there; values are not looked at."""
    command, _, rest = find_command(words)
    if isinstance(command, TyperGroup) and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
        return [rest[0]]
    given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
    return sorted(given - options_of(command))


def find_command(
    words: Sequence[str],
) -> tuple[typer.core.TyperCommand | TyperGroup, tuple[str, ...], tuple[str, ...]]:
    """The command that the first words name, those words, and the others."""
    found = typer.main.get_command(app)
    path, rest = (), tuple(words)
    while isinstance(found, TyperGroup) and rest and rest[0] in found.commands:
        found, path, rest = found.commands[rest[0]], (*path, rest[0]), rest[1:]
    return found, path, rest


def summary_in(page: str) -> dict[tuple[str, ...], str]:
    """The lines of code blocks that say what a command takes, by the command's path.

    A line that is indented goes on with the one before; brackets and bars are left in.
    """
    said: dict[tuple[str, ...], str] = {}
    path: tuple[str, ...] = ()
    for line in (one for block in FENCE.findall(page) for one in block.splitlines()):
        if line.startswith("taos "):
            path = find_command(re.split(r"\s{2,}", line)[0].split()[1:])[1]
            said[path] = line
        elif path and line.startswith("    "):
            said[path] += line
    return said


def options_of(command: typer.core.TyperCommand | TyperGroup) -> set[str]:
    """Every name of every option, those that all commands have included."""
    names = (name for one in command.params for name in (*one.opts, *one.secondary_opts))
    return {name for name in names if name.startswith("-")} | {"--help"}


def option_names(path: Sequence[str]) -> list[set[str]]:
    """The names of each option of the command, such as `-f` and `--follow` of one."""
    params = find_command(path)[0].params
    found = ({*one.opts, *one.secondary_opts} for one in params)
    return [names for names in found if any(name.startswith("-") for name in names)]


def is_group(path: Sequence[str]) -> bool:
    """Whether the path names commands and is none itself."""
    return isinstance(find_command(path)[0], TyperGroup)


def all_commands() -> Iterator[tuple[str, ...]]:
    """The path of every command and group there is."""

    def walk(group: TyperGroup, before: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, one in group.commands.items():
            yield (*before, name)
            if isinstance(one, TyperGroup):
                yield from walk(one, (*before, name))

    root = typer.main.get_command(app)
    assert isinstance(root, TyperGroup)
    return walk(root, ())
