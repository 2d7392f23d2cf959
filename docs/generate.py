"""Writes docs/configuration.md and docs/wire.md from the code: ``make docs``; the tests fail when they are stale.

Meanings are the comments beside the fields in the code, so a field and its documentation are changed in one place.
"""

# ruff: noqa: INP001 - a program beside its pages, no package

import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from types import ModuleType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from common import types
from common.config import settings
from common.model import rollout
from common.wire import activations, codec, documents, messages, tensors, topics
from common.wire.tokens import TOKENS

FOLDER = Path(__file__).parent
_NOTICE = "<!-- Written by docs/generate.py from the code; change the code and run `make docs`. -->"
_Comments = dict[tuple[str, str], str]  # by class and field


def pages() -> dict[str, str]:
    """Give every generated page by its file name."""
    return {"configuration.md": configuration(), "wire.md": wire()}


def configuration() -> str:
    """Document every setting of every process."""
    comments = _comments(settings)
    tiers: dict[str, Any] = {
        "device": settings.DeviceSettings,
        "edge": settings.EdgeSettings,
        "cloud": settings.CloudSettings,
    }
    users: dict[tuple[str, Any], list[str]] = {}
    for tier, kind in tiers.items():
        for field in msgspec.structs.fields(kind):
            users.setdefault((field.encode_name, field.type), []).append(tier)
    sections = [
        f"## `[{name}]` · {', '.join(used_by)}\n\n{_first_line(kind)}\n\n{_settings_table(name, kind, comments)}"
        for (name, kind), used_by in users.items()
    ]
    return _page(_CONFIGURATION, *sections)


def wire() -> str:
    """Document topics, messages, documents, codecs and limits."""
    kinds = _comments(messages) | _comments(types) | _comments(documents) | _comments(rollout)
    between = [
        messages.HiddenStates,
        messages.Outcome,
        messages.SignedOutcome,
        messages.Failure,
        messages.LogRecord,
        messages.LogRecords,
        messages.Receipt,
    ]
    inside = [messages.Tensor, types.Hop, types.Record, types.Answer]
    return _page(
        _WIRE,
        "## Topics\n\n`{site}` is `mqtt.site`; `{id}` and `{node}` are a `node.id`.\n\n" + _topics_table(),
        "## Messages between tiers\n\nThe first element of a message is its tag.",
        *(_record_section(kind, kinds) for kind in between),
        "## Records inside messages",
        *(_record_section(kind, kinds) for kind in inside),
        _enumerations(),
        "## Activation codecs\n\nHidden states `[S, H]` of S real tokens become tensors "
        "by these names. Over a [thin link](thin-link.md) they have fewer tokens, and a budget of the bundle in place "
        "of H.\n\n" + _codecs_table(),
        "## JSON documents",
        _input_section(kinds),
        _ANSWER,
        _status_section(kinds),
        _named_section("Rollout · `…/model/rollout`, retained", rollout.Rollout, kinds),
        _named_section("Release · part of a Rollout", rollout.Release, kinds),
        _named_section("Figures · `…/status/{tier}/{node}/figures`, retained", documents.Figures, kinds),
        _named_section("LinkCap · `…/link`, retained", documents.LinkCap, kinds),
        "## Limits\n\n" + _limits_table(),
    )


def _settings_table(section: str, kind: type, comments: _Comments) -> str:
    hints = get_type_hints(kind, include_extras=True)
    rows = []
    for field in msgspec.structs.fields(kind):
        default = "**must be set**" if field.required else f"`{_toml(field.default)}`"
        variable = f"`DIMEE_{section}__{field.encode_name}`".upper()
        meaning = comments.get((kind.__name__, field.name), "")
        rows.append((f"`{field.encode_name}`", _kind(hints[field.name]), default, meaning, variable))
    return _table(("key", "kind", "default", "meaning", "environment"), rows)


def _record_section(kind: type, comments: _Comments) -> str:
    tag = kind.__struct_config__.tag  # type: ignore[attr-defined]
    title = f"### {kind.__name__}" + (f" · tag `{tag}`" if tag else "")
    hints = get_type_hints(kind, include_extras=True)
    rows = [
        (
            str(position),
            f"`{field.name}`",
            _kind(hints[field.name]),
            "" if field.required else f"`{_default(field)}`",
            comments.get((kind.__name__, field.name), ""),
        )
        for position, field in enumerate(msgspec.structs.fields(kind), start=1 if tag else 0)
    ]
    table = _table(("position", "field", "kind", "default", "meaning"), rows)
    return f"{title}\n\n{_first_line(kind)}\n\n{table}"


def _named_section(title: str, kind: type, comments: _Comments) -> str:
    hints = get_type_hints(kind, include_extras=True)
    rows = [
        (
            f"`{field.name}`",
            _kind(hints[field.name]),
            "" if field.required else f"`{_json(_default_value(field))}`",
            comments.get((kind.__name__, field.name), ""),
        )
        for field in msgspec.structs.fields(kind)
    ]
    return f"### {title}\n\n{_first_line(kind)}\n\n{_table(('key', 'kind', 'default', 'meaning'), rows)}"


def _input_section(comments: _Comments) -> str:
    return (
        _named_section("Input · `…/input`, lines of stdin and of a watched file", documents.Input, comments)
        + "\n\nWhat does not start with `{` is taken as the text itself, and so is what is no JSON.\n\n"
        + '```json\n{"text": "a fine film", "id": "42"}\n```'
    )


def _status_section(comments: _Comments) -> str:
    status = types.NodeStatus(state="online", tier=types.Tier.EDGE, node="edge-1", model_revision="0123456789abcdef")
    return (
        _named_section("NodeStatus · `…/status/{tier}/{node}`, retained", types.NodeStatus, comments)
        + f"\n\n```json\n{msgspec.json.encode(status).decode()}\n```"
    )


def _topics_table() -> str:
    site = topics.Topics("{site}")
    edge, cloud = types.Tier.EDGE, types.Tier.CLOUD
    rows = [
        (site.request(edge), "devices", "edges; a shared subscription where the broker has it", "HiddenStates"),
        (site.request(cloud), "devices, edges", "cloud workers, likewise", "HiddenStates"),
        (
            site.outcome("{id}"),
            "edges, cloud workers, recorder",
            "that device",
            "Outcome, SignedOutcome, Failure, Receipt",
        ),
        (site.log, "devices", "the recorder in an edge", "LogRecord, LogRecords"),
        (site.input("{id}"), "applications", "that device", "text or JSON Input"),
        (site.answer("{id}"), "that device", "applications", "JSON answer or error"),
        (site.training("up"), "the device part of split training", "the server part", "Activations"),
        (site.training("down"), "the server part", "the device part", "Learned, Refused"),
        (site.link, "an operator, retained", "adaptive devices", "JSON LinkCap"),
        (site.status("{tier}", "{node}"), "every node, and the broker as its last will", "anyone", "JSON NodeStatus"),
        (site.figures("{tier}", "{node}"), "a node in Home Assistant", "Home Assistant", "JSON Figures, retained"),
        (site.discovery("{tier}", "{node}"), "the same", "the same", "JSON, a device's discovery payload, retained"),
        (site.home_assistant, "Home Assistant", "nodes that are shown there", "`online` or `offline`"),
        (site.claim("{tier}", "{node}"), "every node", "that node", "a random token, retained: whose turn the id is"),
        (site.rollout, "the operator", "every node with `updates.folder`", "JSON Rollout, retained"),
        (site.operating_point, "the operator", "every node", "JSON OperatingPoint, retained"),
        (site.chunk("{revision}", "{file}", "{number}"), "the operator", "the same", "a part of a file, retained"),
    ]
    return _table(("topic", "from", "to", "message"), [(f"`{topic}`", *rest) for topic, *rest in rows])


def _enumerations() -> str:
    comments = _comments(types)
    rows = [(f"`{reason.value}`", comments.get(("Reason", reason.name), "")) for reason in types.Reason]
    codes = get_args(messages.FailureCode)
    if set(codes) != set(_FAILURES):
        raise SystemExit(f"docs/generate.py: failure codes {codes} and their meanings {sorted(_FAILURES)} differ")
    failures = [(f"`{code}`", _FAILURES[code]) for code in codes]
    return (
        "### Reason\n\n"
        + _table(("value", "meaning"), rows)
        + "\n\n### Failure codes\n\nThe device answers such a request from its own exit, as `degraded`.\n\n"
        + _table(("code", "meaning"), failures)
    )


def _codecs_table() -> str:
    rows = []
    for name in activations.CODEC_NAMES:
        meaning = (type(activations.codec(name)).__doc__ or "").strip()
        rows.append((f"`{name}`", _BYTES[name], meaning))
    whole = (
        "Token ids in the place of the embedding output, at split point 0 alone; where `worker.takes_tokens` is set."
    )
    rows.append((f"`{TOKENS}`", "2 · S, or 4 · S beyond 65,536 words; + S for a pair", whole))
    return _table(("name", "bytes for S tokens of width H", "what it does"), rows)


def _limits_table() -> str:
    rows = [
        ("message between tiers", f"{codec.MAX_MESSAGE_BYTES:,} bytes", "`common/wire/codec.py`"),
        ("tensor", f"{tensors.MAX_TENSOR_BYTES:,} bytes", "`common/wire/tensors.py`"),
        ("MQTT packet", f"{settings.Mqtt().max_packet_bytes:,} bytes", "`mqtt.max_packet_bytes`, or the broker's"),
        ("part of a published file", f"{rollout.MAX_CHUNK_BYTES:,} bytes", "`common/model/rollout.py`"),
        ("hops", str(messages.MAX_HOPS), "`common/wire/messages.py`"),
        ("tensor dtypes", ", ".join(f"`{name}`" for name in tensors._DTYPES), "`common/wire/tensors.py`"),  # noqa: SLF001
    ]
    return _table(("what", "limit", "where"), rows)


def _comments(module: ModuleType) -> _Comments:
    """Read the comment on each field's line."""
    source = Path(str(module.__file__)).read_text(encoding="utf-8")
    by_line = {
        token.start[0]: token.string.removeprefix("#").strip()
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT and "noqa" not in token.string
    }
    return {
        (body.name, target): " ".join(by_line[line] for line in lines if line in by_line).replace("``", "`")
        for body in ast.parse(source).body
        if isinstance(body, ast.ClassDef)
        for target, lines in _fields(body)
    }


def _fields(body: ast.ClassDef) -> Iterator[tuple[str, range]]:
    """Give each field with its lines."""
    for statement in body.body:
        match statement:
            case ast.AnnAssign(target=ast.Name(id=name), lineno=first, end_lineno=int(last)):
                yield name, range(first, last + 1)
            case ast.Assign(targets=[ast.Name(id=name)], lineno=first, end_lineno=int(last)):
                yield name, range(first, last + 1)


def _kind(hint: Any) -> str:
    """Put a field's type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _bounded(*arguments)
    if origin in {Union, UnionType}:
        return " or ".join("none" if part is type(None) else _kind(part) for part in arguments)
    if origin in {tuple, dict}:
        return f"array of {_kind(arguments[0])}" if origin is tuple else f"object of {_kind(arguments[1])}"
    if origin is Literal or issubclass(hint, StrEnum):
        return " or ".join(f"`{value}`" for value in arguments or hint)
    return _NAMES.get(hint, str(hint.__name__))


def _bounded(base: Any, *notes: Any) -> str:
    metas = [note for note in notes if isinstance(note, msgspec.Meta)]
    if get_origin(base) is tuple:
        return f"{metas[0].min_length or 0} to {metas[0].max_length} of {_kind(get_args(base)[0])}"
    if get_origin(base) is dict:
        return f"{_kind(base)}, {metas[0].min_length or 0} to {metas[0].max_length} of them"
    return ", ".join([_kind(base), *(text for meta in metas for text in _bounds(meta))])


def _bounds(meta: msgspec.Meta) -> Iterator[str]:
    if meta.ge is not None and meta.le is not None:
        yield f"{meta.ge} to {meta.le}"
    elif meta.ge is not None:
        yield f"at least {meta.ge}"
    if meta.gt is not None:
        yield f"above {meta.gt}"
    if meta.max_length is not None:
        yield f"{meta.min_length or 0} to {meta.max_length} characters"
    if meta.pattern is not None:
        yield _PATTERNS[meta.pattern]


def _default_value(field: Any) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory()


def _default(field: Any) -> str:
    value = _default_value(field)
    return "none" if value is None else _json(list(value) if isinstance(value, tuple) else value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _toml(value: Any) -> str:
    return "none" if value is None else _json(value)


def _first_line(kind: type) -> str:
    return (kind.__doc__ or "").strip().splitlines()[0].replace("``", "`")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _page(*parts: str) -> str:
    title, _, rest = parts[0].strip().partition("\n")
    return "\n\n".join((title, _NOTICE, rest.strip(), *parts[1:])) + "\n"


_NAMES: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "true or false", bytes: "bytes"}
_PATTERNS = {
    r"^[^+#/\x00]{1,64}$": "1 to 64 characters without `+ # /` or NUL",
    r"^[0-9a-f]{16}$": "16 hexadecimal digits",
}
_BYTES = {
    "float32": "4·S·H",
    "float16": "2·S·H",
    "int8": "S·H + 2·S",
    "int4": "S·(17·H / 32 + 4) + H / 8",
    "graded": "H + S·(bits of all dimensions) / 8, and S more over a link",
}
_FAILURES = {
    "model_mismatch": "the tier serves another model revision than the device",
    "bad_message": "tensors, shape, split point, codec or the width of a thin link do not fit the model",
    "expired": "the budget had run out; reserved, today such a request is dropped and counted",
    "overloaded": "no place for it among what waits; the device answers by itself at once",
    "internal": "inference failed, now or twice before (quarantine); the tier's log has the traceback",
    "unsigned": "the device needs a signature and the tier has no certificate to sign with",
    "record_refused": "the recorder cannot log this finished request; the device sets its record aside",
}
_CONFIGURATION = """
# Configuration

Each process reads one TOML file, named by `--config`. Commented examples: [device.toml](../examples/device.toml),
[edge.toml](../examples/edge.toml), [cloud.toml](../examples/cloud.toml).

- Order: the default, then the file, then the environment variable `DIMEE_SECTION__KEY`. A file is not needed where
  variables say everything.
- Only `node.id` has no default.
- An unknown section or key is an error that names the nearest known one, in the file and in the environment.
- `schema` and `tier` may stand above the first section. Files of an earlier schema are understood, and `dimee config
  migrate FILE` rewrites them; those of a later one are refused.
- The password stands in a file of its own (`mqtt.password_file`), never in the settings.
- `none` means: leave the key out.
"""
_WIRE = """
# Wire, version 1

What the processes say to each other. Tiers speak msgpack; what people and other programs read and write is JSON.

- The major version stands once, in the topic. A field is only ever added at the end, with a default. An older
  receiver ignores what it does not know.
- Messages between tiers are msgpack arrays: a field is known by its position. The floats of HiddenStates travel in
  single precision, all others in double; a receiver takes either.
- Everything that is needed stands in the message, so MQTT 3.1.1 is enough. Under MQTT 5 requests also carry a message
  expiry from their budget, and workers of a tier share a subscription.
- Hidden states, Outcomes and Failures go at QoS 0: the device sends a request again until it is answered, so the
  broker's acknowledgement, which is no delivery, would only cost four packets a request: see
  [how it works](how-it-works.md#the-promise). Records, receipts, answers and statuses go at QoS 1.
- A message that cannot be understood is counted and logged. A request that is understood but cannot be served is
  answered with a Failure.
"""
_ANSWER = """### Answer · `…/answer`, lines of stdout, `dimee device ask --json`

The fields of [Answer](#answer) by name, `hops` as objects with the fields of [Hop](#hop), and `queue_ms`,
`compute_ms` and `network_ms`: the tiers' waiting and computing summed up, and what is left of `total_ms`. Where the
input had an `id`, it comes first. A refused input is answered with `{"id": …, "error": "…"}`."""


def main() -> None:
    """Write all pages."""
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        sys.stderr.write(f"docs/{name} written\n")


if __name__ == "__main__":
    main()
