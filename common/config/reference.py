"""Every setting as people read it: key, default, bounds and comment, taken from the source of ``settings``.

So what ``init`` writes and what the reference shows can never drift from what is in force.
"""

import ast
import inspect
import io
import textwrap
import tokenize
from typing import Any

import msgspec

from common.config.settings import Section


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One key of a section."""

    section: str
    key: str
    default: Any  # None: not set
    is_required: bool
    bounds: str  # "1 to 65535", "auto, 5 or 3.1.1", or nothing
    comment: str

    @property
    def name(self) -> str:
        """Write ``section.key``."""
        return f"{self.section}.{self.key}"

    @property
    def remark(self) -> str:
        """Say what the value means and may be, in one line."""
        return "; ".join(filter(None, (self.comment, self.bounds)))


class SectionReference(msgspec.Struct, frozen=True, kw_only=True):
    """One table of the file."""

    name: str
    summary: str
    settings: tuple[Setting, ...]


def describe(kind: type[Section]) -> tuple[SectionReference, ...]:
    """Describe the sections of one process's settings, in the order of the source."""
    return tuple(_section(field.encode_name, field.type) for field in msgspec.structs.fields(kind))


def _section(name: str, kind: type[Section]) -> SectionReference:
    comments = _comments(kind)
    settings = tuple(
        Setting(
            section=name,
            key=field.encode_name,
            default=None if field.required else field.default,
            is_required=field.required,
            bounds=_bounds(msgspec.inspect.type_info(field.type)),
            comment=comments.get(field.name, ""),
        )
        for field in msgspec.structs.fields(kind)
    )
    return SectionReference(name=name, summary=(inspect.getdoc(kind) or "").partition("\n")[0], settings=settings)


def _comments(kind: type[Section]) -> dict[str, str]:
    """Give the comment at the end of each field's lines."""
    source = textwrap.dedent(inspect.getsource(kind))
    by_line = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (definition,) = ast.parse(source).body
    comments = {}
    for node in ast.iter_child_nodes(definition):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            lines = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            comments[node.target.id] = " ".join(by_line[line] for line in lines if line in by_line)
    return comments


def _bounds(kind: msgspec.inspect.Type) -> str:
    match kind:
        case msgspec.inspect.UnionType():
            return next((bounds for each in kind.types if (bounds := _bounds(each))), "")
        case msgspec.inspect.LiteralType():
            *most, last = (str(value) for value in kind.values)
            return f"{', '.join(most)} or {last}" if most else last
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return _range(kind)
        case msgspec.inspect.StrType() if kind.max_length is not None:
            return f"{kind.min_length or 0} to {kind.max_length} characters"
    return ""


def _range(kind: msgspec.inspect.IntType | msgspec.inspect.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f"{kind.ge:g} to {kind.le:g}"
    if kind.ge is not None:
        return f"at least {kind.ge:g}"
    return f"above {kind.gt:g}" if kind.gt is not None else ""
