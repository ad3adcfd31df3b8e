"""The OpenAPI description and the page that shows it, self-contained: a cluster without Internet has no script CDN."""

from __future__ import annotations

from html import escape
from string import Template
from typing import Any

from fastapi import FastAPI

from isotherm.predictor.guard import NOT_SERVED
from isotherm.predictor.payload import COMPUTED_HERE, FIELDS, ROWS_MAX
from isotherm.predictor.service import Identity

Schema = dict[str, Any]

_FIELDS: Schema = {
    "description": "fields wanted beside u, a list or text with commas",
    "anyOf": [{"type": "array", "items": {"type": "string", "enum": list(FIELDS)}}, {"type": "string"}],
}
INSTANCES: Schema = {
    "type": "object",
    "required": ["instances"],
    "additionalProperties": False,
    "properties": {
        "instances": {
            "type": "array",
            "minItems": 1,
            "maxItems": ROWS_MAX,
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3},
            "example": [[0.5, 0.5, 0.1]],
        },
        "fields": _FIELDS,
        "f": {
            "type": "array",
            "items": {"type": "number"},
            "description": "source per point, where the model does not know it",
        },
    },
}
POINT: Schema = {
    "type": "object",
    "required": ["x", "y", "t"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "number"} for name in ("x", "y", "t")},
        "fields": _FIELDS,
        "f": {"type": "number"},
        **{
            name: {"type": "number", "description": "ignored: the server computes it"} for name in sorted(COMPUTED_HERE)
        },
    },
    "example": {"x": 0.5, "y": 0.5, "t": 0.1},
}


def body(schema: Schema) -> Schema:
    """Return the OpenAPI part for a JSON body that the guard has already parsed."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI, identity: Identity) -> None:
    """Title the API after its model and leave out the SDK's routes that the guard refuses."""
    app.title, app.version = "Inverse Heat PINN", identity.model_version
    app.description = f"Model {identity.model_digest}, trained on data {identity.data_version}, track {identity.track}."
    schema = app.openapi()
    paths = {path: item for path, item in schema["paths"].items() if not NOT_SERVED.fullmatch(path)}
    paths["/v1/models/{model_name}:predict"]["post"].update(body(INSTANCES))
    app.openapi_schema = {**schema, "paths": paths}


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body { font: 16px/1.5 system-ui; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
td { padding: .3rem .8rem .3rem 0; vertical-align: top }
</style>
<h1>$title $version</h1>
<p>$description <a href="/openapi.json">OpenAPI</a>, <a href="/metrics">metrics</a>.</p>
<pre>curl "$$URL/predict-temperature?x=0.5&amp;y=0.5&amp;t=0.1&amp;fields=a,residual"
curl -d '{"instances": [[0.5, 0.5, 0.1]]}' "$$URL/predict"
curl "$$URL/v2/models/$model/infer" -d '{"inputs": [{"name": "points", "datatype": "FP64",
  "shape": [1, 3], "data": [0.5, 0.5, 0.1]}], "outputs": [{"name": "u"}, {"name": "a"}]}'</pre>
<table>$rows</table></html>"""


def html(schema: Schema, model_name: str) -> str:
    """Render the description as one page without scripts."""
    rows = "".join(
        f"<tr><td>{method.upper()}</td><td><code>{escape(path)}</code></td><td>{escape(_summary(operation))}</td></tr>"
        for path, item in schema["paths"].items()
        for method, operation in item.items()
    )
    info = {key: escape(schema["info"][key]) for key in ("title", "version", "description")}
    return Template(_PAGE).substitute(info, model=escape(model_name), rows=rows)


def _summary(operation: Schema) -> str:
    text: str = operation.get("description") or operation["summary"]
    return text.split("\n", 1)[0]
