"""What the reconciler compares: watched branches, Alertmanager, the registry. One YAML file, one model.

Reads   the file that RECONCILE_CONFIG names
Raises  `tekton.BadInput` naming the field that is wrong
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from isotherm import tekton
from isotherm.events import keys


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def _slug(text: str) -> str:
    return _plain(lambda: keys.check("it", text, keys.SLUG))


def _model(text: str) -> str:
    return _plain(lambda: keys.check("it", text, keys.MODEL))


def _plain(call: Any) -> str:
    """Pydantic names the field; it takes ValueErrors only."""
    try:
        return str(call())
    except tekton.BadInput as error:
        raise ValueError(error.remedy) from None


def _inside(path: str) -> str:
    parts = Path(path).parts
    if not parts or path.startswith(("/", "-", ":")) or ".." in parts or not path.isprintable():
        raise ValueError("it must be a path inside the repository, such as data/heatinv")
    return "/".join(parts)


Slug = Annotated[str, AfterValidator(_slug)]
ModelName = Annotated[str, AfterValidator(_model)]
RepositoryPath = Annotated[str, AfterValidator(_inside)]
Url = Annotated[str, Field(pattern=r"^https?://[^/\s@]+[^\s@]*$")]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=_dashed)


class Watch(_Part):
    """A branch whose commits to one dataset each need a run; `path` is the dataset's folder or file under DVC."""

    watch: Slug
    repo_url: str
    branch: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")
    path: RepositoryPath
    template: str
    credentials_dir: str = ""


class Alerts(_Part):
    """An Alertmanager whose alerts with label `retrain` ask for trainings of these models.

    Grafana's own has the same API under URL/api/alertmanager/grafana, for a service account's token.
    """

    alertmanager_url: Url
    template: str
    models: list[ModelName]
    token_file: str = ""


class Deployed(_Part):
    """A registered model whose alias says which version is to be live on a Route."""

    name: ModelName
    route: str
    alias: str
    template: str


class Registry(_Part):
    """The registry. What changed less than `settle_minutes` ago is left alone: a pipeline is at work on it."""

    mlflow_uri: Url
    models: list[Deployed]
    credentials_dir: str = ""
    settle_minutes: int = Field(default=30, ge=0, le=1440)


class Config(_Part):
    """All sources; each may be left out."""

    git: list[Watch] = []
    alerts: list[Alerts] = []
    registry: Registry | None = None


def load(path: Path) -> Config:
    """Read the file."""
    try:
        config = Config.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise tekton.BadInput(f"RECONCILE_CONFIG {path} cannot be read: {reason}", remedy="correct it") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise tekton.BadInput(f"{path.name}: {where}: {first['msg']}", remedy="correct the configuration") from error
    names = [watch.watch for watch in config.git]
    if len(set(names)) != len(names):
        raise tekton.BadInput(f"{path.name}: two watches have one name", remedy="runs are named by it: tell them apart")
    return config
