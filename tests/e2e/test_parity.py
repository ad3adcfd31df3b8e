"""The same runs on the local target and on the cluster: same status, results, skips and finally outcomes.

PARITY lists what differs on purpose; a test fails when a difference is not in it, or is in it and does not occur.
"""

from __future__ import annotations
