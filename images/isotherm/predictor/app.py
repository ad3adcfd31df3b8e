"""The HTTP interface: KServe's V1 and V2 endpoints over one model, and this catalog's own ones beside them.

KServe's application is a module-level singleton, so one process serves one `Service`.
"""

from __future__ import annotations

import logging
import uuid
from typing import Annotated, Any

import kserve
import kserve.errors
import prometheus_client
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from kserve.constants.constants import FASTAPI_APP_IMPORT_STRING
from kserve.model_server import app as kserve_app
from kserve.protocol.dataplane import DataPlane
from kserve.protocol.model_repository_extension import ModelRepositoryExtension
from kserve.protocol.rest.server import RESTServer
from starlette.exceptions import HTTPException

from isotherm import contract
from isotherm.predictor import pages, payload
from isotherm.predictor.guard import PAYLOAD, App, Guard
from isotherm.predictor.metrics import Metrics
from isotherm.predictor.payload import Question, Refusal
from isotherm.predictor.service import ModelFault, Service

REGISTRY = prometheus_client.REGISTRY  # KServe's /metrics shows it
Answer = dict[str, Any]
_logger = logging.getLogger("isotherm.predictor")


class PinnModel(kserve.Model):  # type: ignore[misc]
    """The model as KServe's data plane sees it: V1 bodies are dicts, V2 bodies `InferRequest`."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.identity.model_name)
        self._service = service
        self.ready = True

    def get_input_types(self) -> list[Answer]:
        """Describe the V2 inputs."""
        inputs = [{"name": contract.ONNX_POINTS, "datatype": "FP64", "shape": [-1, 3]}]
        if self._service.model.needs_source:
            inputs.append({"name": contract.ONNX_SOURCE, "datatype": "FP64", "shape": [-1]})
        return inputs

    def get_output_types(self) -> list[Answer]:
        """Describe the V2 outputs."""
        return [{"name": name, "datatype": "FP64", "shape": [-1]} for name in self._service.fields]

    async def predict(
        self,
        payload: Answer | kserve.InferRequest,
        headers: dict[str, str] | None = None,  # noqa: ARG002 (KServe passes it)
    ) -> Answer | kserve.InferResponse:
        """Answer a V1 or a V2 request."""
        if isinstance(payload, kserve.InferRequest):
            return await self._infer(payload)
        return await predictions(self._service, payload)

    async def _infer(self, request: kserve.InferRequest) -> kserve.InferResponse:
        outputs = [output.name for output in request.request_outputs or []]
        question = payload.from_tensors(request.inputs, outputs, request.parameters)
        values = await self._service.predict(question)
        return kserve.InferResponse(
            response_id=request.id or str(uuid.uuid4()),
            model_name=self.name,
            model_version=self._service.identity.model_version,
            infer_outputs=[
                kserve.InferOutput(name, [len(array)], "FP64", array.tolist()) for name, array in values.items()
            ],
        )


async def predictions(service: Service, body: object) -> Answer:
    """Answer a V1 body: numbers where only `u` is asked for, else one object per point."""
    question = payload.from_instances(body)
    values = {name: array.tolist() for name, array in (await service.predict(question)).items()}
    if question.fields == (contract.ONNX_U,):
        return {"predictions": values[contract.ONNX_U]}
    return {"predictions": [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]}


async def temperature(service: Service, question: Question, key: str) -> Answer:
    """Answer one point: `u` under `key`, the other fields under their names, and the lineage."""
    values = {name: float(array[0]) for name, array in (await service.predict(question)).items()}
    return {key: values.pop(contract.ONNX_U), **service.lineage(), **values}


def build(service: Service, metrics: Metrics) -> App:
    """Return the whole server as one ASGI application."""
    app: FastAPI = kserve_app
    model = PinnModel(service)
    models = kserve.ModelRepository()
    models.update(model)
    # Only its routes and error handlers are used: serve.py runs uvicorn, with a socket of its own and the headers.
    RESTServer(FASTAPI_APP_IMPORT_STRING, DataPlane(models), ModelRepositoryExtension(models), 0).create_application()
    _add_endpoints(app, service)
    _add_error_answers(app)
    pages.describe(app, service.identity)
    return Guard(app, metrics)


def _add_endpoints(app: FastAPI, service: Service) -> None:
    @app.post("/predict", tags=["Temperature"], openapi_extra=pages.body(pages.INSTANCES))
    async def predict(request: Request) -> Answer:
        """Temperatures at many points (the V1 body without the model's name in the path)."""
        return await predictions(service, request.scope[PAYLOAD])

    @app.get("/predict-temperature", tags=["Temperature"])
    async def get_temperature(
        x: float, y: float, t: float, fields: str | None = None, f: Annotated[float | None, Query()] = None
    ) -> Answer:
        """Temperature at one point; `fields=a,residual` adds the diffusivity and the PDE residual there."""
        body = {"x": x, "y": y, "t": t, "fields": fields, "f": f}
        return await temperature(service, payload.from_coordinates(body), "u(x,y,t)")

    @app.post("/predict-temperature", tags=["Temperature"], openapi_extra=pages.body(pages.POINT))
    async def post_temperature(request: Request) -> Answer:
        """Temperature at one point given as JSON."""
        return await temperature(service, payload.from_coordinates(request.scope[PAYLOAD]), "u")

    @app.get(contract.PATH_DOMAIN, tags=["Temperature"])
    async def domain() -> Answer:
        """What may be asked: the intervals of x, y and t in which the model was trained."""
        return service.domain()

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(pages.html(app.openapi(), service.identity.model_name))


def _add_error_answers(app: FastAPI) -> None:
    """Answer each error as `{"error": reason}`; KServe would log a traceback for every bad request."""

    @app.exception_handler(Refusal)
    async def refused(_: Request, error: Refusal) -> JSONResponse:
        return JSONResponse({"error": error.reason}, error.status)

    @app.exception_handler(ModelFault)
    async def failed(_: Request, error: ModelFault) -> JSONResponse:
        _logger.error("%s", error)
        return JSONResponse({"error": str(error)}, 500)

    @app.exception_handler(kserve.errors.ModelNotFound)
    async def unknown_model(_: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 404)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"[:500]}, 422)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)
