"""Build the catalog's images on this machine: with buildah, podman or docker, without a registry where need be.

Only the standard library is used, so that `make images` works in a fresh checkout.
"""
