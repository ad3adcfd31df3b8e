"""Passwords and keys of the lab's servers: random at every first `up`, in one file that only root reads."""

from __future__ import annotations

import json
import secrets

from lab.part import Lab

NAMES = ("s3-access", "s3-secret", "postgres", "gitea", "mlflow-webhooks")


def make(lab: Lab) -> None:
    """Draw them, unless an earlier `up` did; one that a newer lab needs as well is added."""
    file = lab.state / "secrets.json"
    known = read(lab) if file.exists() else {}
    if set(NAMES) <= set(known):
        return
    partial = file.with_suffix(".new")
    partial.touch(0o600)
    partial.write_text(json.dumps({name: secrets.token_hex(16) for name in NAMES} | known))
    partial.replace(file)


def read(lab: Lab) -> dict[str, str]:
    """Every secret by its name."""
    return dict(json.loads((lab.state / "secrets.json").read_text()))
