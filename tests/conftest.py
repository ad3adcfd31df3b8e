"""Fixtures that every test folder may ask for by name."""

from __future__ import annotations

from mlflow_server import mlflow_url

__all__ = ["mlflow_url"]
