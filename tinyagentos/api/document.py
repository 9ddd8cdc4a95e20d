"""The API's contract as a page for people: docs/api.md, made from the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Node = Mapping[str, Any]  # OpenAPI 3.1 is JSON

HEAD = """# API

Made from the OpenAPI document, which the server serves at `/api/openapi.json`. Send
`Authorization: Bearer TOKEN` (the file `token` in `data_dir`), or use the server's Unix socket,
which needs none. Errors are [problem+json with a code and a hint](reference.md#error-codes). What
takes long answers 202 with a job; follow it at `/api/jobs/{job_id}/events`. Send an
`Idempotency-Key` with each request that begins a job: whoever does not get the answer can then send
[the same again](reference.md#idempotency-keys).
"""


def render_api(contract: Node) -> str:
    """The page for an OpenAPI document."""
    return (
        "\n".join([HEAD, *_routes(contract), "## Values", "", *_values(contract)]).rstrip() + "\n"
    )


def _routes(contract: Node) -> Iterator[str]:
    groups: dict[str, list[tuple[str, str, Node]]] = {}
    for path, methods in contract["paths"].items():
        for method, operation in methods.items():
            group = (operation.get("tags") or ["server"])[0]
            groups.setdefault(group, []).append((method.upper(), path, operation))
    for group, routes in sorted(groups.items()):
        yield f"## {group.capitalize()}"
        yield ""
        for method, path, operation in routes:
            yield from _route(method, path, operation)


def _route(method: str, path: str, operation: Node) -> Iterator[str]:
    yield f"### {method} {path}"
    yield ""
    yield operation.get("description", operation.get("summary", "")).strip()
    yield ""
    rows = [
        (f"`{one['name']}` ({one['in']})", _type(one["schema"]), _notes(one, one["schema"]))
        for one in operation.get("parameters", ())
    ]
    yield from _table(rows)
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield f"Takes {_type(content['schema'])}."
        yield ""
    for status, answer in operation["responses"].items():
        if status.startswith("2") or status == "303":
            what = " or ".join(dict.fromkeys(_contents(answer)))
            yield f"Answers {status}{': ' + what if what else ''}."
            yield ""


def _contents(answer: Node) -> Iterator[str]:
    for kind, content in answer.get("content", {}).items():
        schema = content.get("schema")
        yield _type(schema) if schema and kind == "application/json" else f"`{kind}`"


def _values(contract: Node) -> Iterator[str]:
    for name, schema in sorted(contract["components"]["schemas"].items()):
        if name in ("HTTPValidationError", "ValidationError"):
            continue  # FastAPI's own, which this API never answers with
        yield f"### {name}"
        yield ""
        if about := schema.get("description"):
            yield about.strip()
            yield ""
        if "enum" in schema:
            yield "One of " + ", ".join(f"`{one}`" for one in schema["enum"]) + "."
            yield ""
        needed = set(schema.get("required", ()))
        yield from _table(
            [
                (f"`{field}`{'' if field in needed else ' (optional)'}", _type(one), _notes(one))
                for field, one in schema.get("properties", {}).items()
            ]
        )


def _table(rows: list[tuple[str, str, str]]) -> Iterator[str]:
    if rows:
        yield "| Name | Type | |"
        yield "|---|---|---|"
        for row in rows:
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
        yield ""


def _type(schema: Node) -> str:
    """A type in a word or two, with a link where it is one of ours."""
    match schema:
        case {"$ref": str(path)}:
            name = path.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": list(several)}:
            return " or ".join(dict.fromkeys(_type(one) for one in several))
        case {"type": "array", "items": dict(item)}:
            return f"list of {_type(item)}"
        case {"type": "null"}:
            return "null"
        case {"type": str(name)}:
            return f"{name} ({schema['format']})" if "format" in schema else name
    return "any"


def _notes(*nodes: Node) -> str:
    said = [str(node["description"]) for node in nodes if node.get("description")]
    if nodes[-1].get("default") not in (None, "", [], ()):
        said.append(f"default `{nodes[-1]['default']}`")
    return "; ".join(dict.fromkeys(said))
