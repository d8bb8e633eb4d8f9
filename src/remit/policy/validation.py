"""What a model says against a value, in words for whoever wrote the manifest: what was expected, what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from remit.policy.text import Path

MAX_MISTAKES = 100
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Mistake:
    """See `manifests.Problem`."""

    expected: str
    found: str = ""
    nearest: str = ""


def validated(model: type[M], value: Any, at: Path, wrong: Callable[[Path, Mistake], None]) -> M | None:
    """`value` as `model`, or None after every mistake was told to `wrong` with its path below `at`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for item in error.errors(include_url=False)[:MAX_MISTAKES]:
            wrong((*at, *_real(item["loc"])), _mistake(model, item))
        return None


def shown(value: object) -> str:
    """A value as it may stand in an error: escaped, at most 80 characters, `"get"` for text, `nothing` for None."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = '"' + ascii(value)[1:-1].replace('"', '\\"') + '"' if isinstance(value, str) else ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _mistake(model: type[BaseModel], item: ErrorDetails) -> Mistake:
    context = item.get("ctx") or {}
    found = shown(item["input"])
    match item["type"]:
        case "remit":
            return Mistake(str(context["expected"]), found, str(context["nearest"]))
        case "extra_forbidden":
            known = _fields(model, _real(item["loc"])[:-1])
            near = get_close_matches(str(item["loc"][-1])[:100], known, n=1)
            return Mistake("unknown field", nearest=near[0] if near else "")
        case "missing":
            return Mistake("expected a value, found nothing")
        case "string_type":
            return Mistake("expected text", found, _quoted(item["input"]))
        case "int_type" | "int_from_float":
            return Mistake("expected a whole number", found)
        case "float_type":
            return Mistake("expected a number", found)
        case "bool_type":
            return Mistake("expected true or false", found)
        case "list_type":
            return Mistake("expected a list", found)
        case "dict_type" | "model_type":
            return Mistake("expected a mapping", found)
        case "literal_error":
            choices = [part.strip("' ") for part in str(context["expected"]).replace(" or ", ", ").split(",")]
            near = get_close_matches(str(item["input"])[:100], choices, n=1)
            return Mistake(f"expected {' or '.join(choices)}", found, near[0] if near else "")
        case "string_pattern_mismatch":
            return Mistake(f"expected text that matches {context['pattern']}", found)
        case "too_short" | "too_long":
            least, most = context.get("min_length"), context.get("max_length")
            number = f"at least {least}" if item["type"] == "too_short" else f"at most {most}"
            return Mistake(f"expected {number} of these, found {context.get('actual_length')}")
        case "string_too_short" | "string_too_long":
            least, most = context.get("min_length"), context.get("max_length")
            number = f"at least {least}" if item["type"] == "string_too_short" else f"at most {most}"
            return Mistake(f"expected {number} characters, found {len(str(item['input']))}")
        case _:
            message = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            return Mistake(message if message.startswith("expected") else f"expected {message}", found)


def _real(loc: tuple[int | str, ...]) -> Path:
    """Without the steps that pydantic adds for keys of mappings and members of unions."""
    return tuple(step for step in loc if step not in ("[key]", "int", "float"))


def _quoted(value: object) -> str:
    """The text that a bare YAML word was probably meant to be: `env: {A: 1}`."""
    return f'"{str(value).lower() if isinstance(value, bool) else value}"' if isinstance(value, int | float) else ""


def _fields(model: type[BaseModel], path: Path) -> list[str]:
    for step in path:
        if isinstance(step, int):
            continue
        info = next((i for n, i in model.model_fields.items() if (i.alias or n) == step), None)
        model = next(_models(info.annotation), model) if info is not None else model
    return [info.alias or name for name, info in model.model_fields.items()]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif isinstance(annotation, UnionType) or get_origin(annotation) is not None:
        for inner in get_args(annotation):
            yield from _models(inner)
