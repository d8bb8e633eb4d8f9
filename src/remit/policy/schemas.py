"""JSON Schemas of the manifests (draft 2020-12), made from the models.

They are written without `$ref`, `const` and null alternatives, so that the part below `spec` can stand in a Kubernetes
CustomResourceDefinition as it is (structural schemas know none of these).
"""

from __future__ import annotations

from typing import Any

from remit.policy import specs


def manifest(kind: str) -> dict[str, Any]:
    """The schema of a whole manifest of a known kind."""
    spec = _plain(specs.KINDS[kind].model_json_schema(by_alias=True))
    metadata = _plain(specs.Metadata.model_json_schema(by_alias=True))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"https://remit.dev/schemas/v1alpha1/{kind.lower()}.json",
        "title": kind,
        "description": spec.pop("description", ""),
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "additionalProperties": False,
        "properties": {
            "apiVersion": {"type": "string", "enum": [specs.API_VERSION]},
            "kind": {"type": "string", "enum": [kind]},
            "metadata": metadata,
            "spec": spec,
            "status": {"type": "object"},
        },
    }


def _plain(schema: dict[str, Any]) -> dict[str, Any]:
    definitions = schema.pop("$defs", {})
    found = _inlined(schema, definitions)
    assert isinstance(found, dict)
    return found


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_inlined(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        rest = {key: value for key, value in node.items() if key != "$ref"}
        return _inlined({**target, **rest}, definitions)
    if "anyOf" in node:
        choices = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
        if {choice.get("type") for choice in choices} == {"integer", "number"}:
            choices = [choice for choice in choices if choice["type"] == "number"]
        rest = {key: value for key, value in node.items() if key != "anyOf"}
        return _inlined({**choices[0], **rest}, definitions)
    if isinstance(node.get("properties"), dict):
        properties = {name: _inlined(value, definitions) for name, value in node["properties"].items()}
        others = _inlined({k: v for k, v in node.items() if k != "properties"}, definitions)
        return {**others, "properties": properties}
    kept = {key: value for key, value in node.items() if not _noise(key, value)}
    if "const" in kept:
        kept["enum"] = [kept.pop("const")]
    return {key: _inlined(value, definitions) for key, value in kept.items()}


def _noise(key: str, value: Any) -> bool:
    """Titles repeat the field's name; a default of null says that the field is optional, which `required` says."""
    return (key == "title" and isinstance(value, str)) or (key == "default" and value is None)
