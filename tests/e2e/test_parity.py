"""The same runs on the local target and on the cluster: same status, results, skips and finally outcomes.

PARITY lists what differs on purpose; a test fails when a difference is not in it, or is in it and does not occur.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
import tekton_examples
import yaml
from normal_form import from_tekton

from e2e.cluster import Space, Target, eventually
