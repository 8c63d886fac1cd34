"""The policy file's JSON Schema, made from its model."""

import inspect
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from webhooks.policy.model import Policy

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_ATTRIBUTE: Final = re.compile(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", re.MULTILINE | re.DOTALL)


def policy_schema() -> dict[str, Any]:
    """As in docs/admission-policy.schema.json; whatever it refuses, `read_policy` refuses."""
    made = msgspec.to_builtins(_without_null(msgspec.json.schema(Policy)))
    for section in dict.fromkeys(_sections(msgspec.inspect.type_info(Policy))):
        definition = made["$defs"][section.__name__]
        definition["description"] = _summary(section)
        told = _attributes(section)
        for field in msgspec.structs.fields(section):
            key = definition["properties"][field.encode_name]
            must = key.get("description", "")
            key["description"] = f"{told[field.name]} {must[:1].upper()}{must[1:]}.".removesuffix(" .")
    return {"$schema": _DIALECT, "title": "Tasuki's admission policy", **made}


def _without_null(value: Any) -> Any:
    """Null is no value in the file: what is optional is left out."""
    if isinstance(value, list | tuple):
        return [_without_null(each) for each in value if each != {"type": "null"}]
    if not isinstance(value, dict):
        return value
    plain = {key: _without_null(each) for key, each in value.items() if not (key == "default" and each is None)}
    match plain:
        case {"anyOf": [only], **others}:
            return {**only, **others}
        case _:
            return plain


def _sections(kind: msgspec.inspect.Type) -> Iterator[type[Any]]:
    """The model's classes."""
    match kind:
        case msgspec.inspect.StructType(cls=section, fields=fields):
            yield section
            for field in fields:
                yield from _sections(field.type)
        case msgspec.inspect.VarTupleType(item_type=item):
            yield from _sections(item)
        case msgspec.inspect.UnionType(types=types):
            for each in types:
                yield from _sections(each)


def _summary(section: type[Any]) -> str:
    return inspect.cleandoc(section.__doc__ or "").partition("\n\nAttributes:")[0].replace("\n", " ").strip()


def _attributes(section: type[Any]) -> Mapping[str, str]:
    """What the docstrings of a class and its bases say of each field."""
    told: dict[str, str] = {}
    for each in reversed(section.__mro__):
        _, _, attributes = inspect.cleandoc(each.__doc__ or "").partition("Attributes:\n")
        told.update((name, " ".join(text.split())) for name, text in _ATTRIBUTE.findall(attributes))
    return told
