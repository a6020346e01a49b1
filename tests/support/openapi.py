"""An OpenAPI document as lines of text: what a client depends on, in one form for equal rules."""

from typing import Any, Final

_TEXTS: Final = frozenset({"title", "description", "examples", "tags"})
_SHOWN: Final = frozenset(
    {"type", "properties", "required", "additionalProperties", "items", "anyOf", "oneOf", "allOf"}
)
_JSON: Final = "application/json"
_PROBLEM: Final = "application/problem+json"
_KIND: Final = {str: "string", bool: "boolean", int: "integer", float: "number"}

Schema = dict[str, Any]


def surface(document: Schema) -> list[str]:
    """Operations with their parameters, bodies, answers and problems; without texts, and without names of schemas."""
    text = _Text(document["components"]["schemas"])
    lines: list[str] = []
    for path, item in sorted(document["paths"].items()):
        for method, operation in sorted(item.items()):
            security = f" security {operation['security']}" if "security" in operation else ""
            lines += ["", f"{method.upper()} {path}  {operation['operationId']}{security}"]
            lines += sorted(text.parameter(one) for one in operation.get("parameters", ()))
            if (body := operation.get("requestBody")) is not None:
                optional = "" if body.get("required") else "?"
                lines += [f"  body{optional} {line}" for line in text.content(body)]
            for status, answer in sorted(operation["responses"].items()):
                lines += [f"  {status}{line}" for line in text.answer(answer)]
    return lines[1:]


class _Text:
    def __init__(self, schemas: dict[str, Schema]) -> None:
        self._schemas = schemas

    def parameter(self, one: Schema) -> str:
        required = "" if one.get("required") else "?"
        return f"  {one['in']} {one['name']}{required}: {self.of(one['schema'])}"

    def answer(self, answer: Schema) -> list[str]:
        headers = "".join(
            f" [{name.lower()}: {self.of(header['schema'])}]"
            for name, header in sorted(answer.get("headers", {}).items())
        )
        return [headers + (" " + line if line else "") for line in self.content(answer) or [""]]

    def content(self, of: Schema) -> list[str]:
        found = sorted((of.get("content") or {}).items())
        return [
            ("problem" if kind == _PROBLEM else f"{kind} {self.of(one['schema'])}").removeprefix(f"{_JSON} ")
            for kind, one in found
        ]

    def of(self, schema: Schema) -> str:
        """A schema: `{a: T, b?: T}` with `!` if it is closed, `[T]`, or its types; then what else it demands."""
        schema = self._resolved(schema)
        if (some := schema.get("anyOf") or schema.get("oneOf")) is not None:
            return "|".join(sorted(self.of(one) for one in some)) + self._rest(schema)
        if (parts := schema.get("allOf")) is not None:
            return "&".join(self.of(one) for one in parts) + self._rest(schema)
        kinds = schema.get("type", sorted({_KIND[type(one)] for one in schema.get("enum", ())}))
        named = {"object": self._object, "array": self._array}
        texts = [
            named[kind](schema) if kind in named else kind for kind in ([kinds] if isinstance(kinds, str) else kinds)
        ]
        rest = self._rest(schema)
        return "|".join(sorted(text + (rest if text != "null" else "") for text in texts)) or f"any{rest}"

    def _resolved(self, schema: Schema) -> Schema:
        return self._schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def _object(self, schema: Schema) -> str:
        required = schema.get("required", ())
        properties = sorted(schema.get("properties", {}).items())
        members = [f"{name}{'' if name in required else '?'}: {self.of(one)}" for name, one in properties]
        match schema.get("additionalProperties", True):
            case False:
                return f"{{{', '.join(members)}}}!"
            case dict() as more if more:
                members.append(f"*: {self.of(more)}")
            case _:
                pass
        return f"{{{', '.join(members)}}}"

    def _array(self, schema: Schema) -> str:
        return f"[{self.of(schema['items'])}]"

    def _rest(self, schema: Schema) -> str:
        """Constraints, other than the type and the members."""
        found = []
        for name, value in sorted(schema.items()):
            if name in {"minimum", "maximum"}:
                found.append(f"{name}={float(value)}")
            elif name not in _TEXTS and name not in _SHOWN and (name, value) != ("default", None):
                found.append(f"{name}={sorted(value, key=str) if name == 'enum' else value!r}")
        return f"({', '.join(found)})" if found else ""
