"""All families, and the field of a descriptor that holds a network of any of them."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import GetJsonSchemaHandler, TypeAdapter, ValidationInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from zoo.network.families.family import FAMILIES, Architecture

for _module in iter_modules([str(Path(__file__).parent)]):
    import_module(f"{__package__}.{_module.name}")


def _of_its_family(value: Any, info: ValidationInfo) -> Architecture:
    if isinstance(value, Architecture):
        return value
    name = value.get("family") if isinstance(value, dict) else None
    if not isinstance(name, str) or name not in FAMILIES:
        raise PydanticCustomError(
            "unknown_family",
            "no family is named {name}, known are: {known}",
            {"name": repr(name), "known": ", ".join(sorted(FAMILIES))},
        )
    if info.mode == "json":
        # Read again as JSON: there a list may be a tuple, strictly.
        return FAMILIES[name].model_validate_json(json.dumps(value), strict=True)
    return FAMILIES[name].model_validate(value)


class _ByFamily:
    """Validates by the family that is named, whenever it was registered; the schema is that of a tagged union."""

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: Any) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(_of_its_family)

    @classmethod
    def __get_pydantic_json_schema__(cls, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        families = {name: FAMILIES[name].__pydantic_core_schema__ for name in sorted(FAMILIES)}
        return handler(core_schema.tagged_union_schema(families, discriminator="family"))


if TYPE_CHECKING:
    AnyArchitecture = Architecture
else:
    # Not the base class: FastAPI would list it among the service's schemas.
    AnyArchitecture = Annotated[Any, _ByFamily]
"""A field that holds a network of any family, told apart by `family`."""

_ANY: TypeAdapter[Architecture] = TypeAdapter(AnyArchitecture)


def parse(text: str | bytes) -> Architecture:
    """From JSON. Raises pydantic.ValidationError."""
    return _ANY.validate_json(text)
