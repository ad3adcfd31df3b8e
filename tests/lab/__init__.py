"""The lab: a real one-node Kubernetes with Tekton, KServe and what the catalog needs beside them, on this machine.

`python -m lab up` makes it, `down` removes it, `status` tells what runs. Parts are in `parts.py`, one file each.
"""
