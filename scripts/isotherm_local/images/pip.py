"""Hand pip's settings of this machine to a build: index, certificates and local wheels, as read-only volumes.

A volume is seen by the build's commands and is not part of any layer, so an image names neither an index nor a
certificate of the machine that built it.
"""

from __future__ import annotations

import configparser
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

# Where every pip looks for settings of the whole machine; and where the volumes with files that they name lie.
CONFIG_DIR = "/etc/xdg/pip"
WHEELS_DIR = "/mnt/wheels"
PREFIX = "pip-settings."
_TAKEN = ("index-url", "extra-index-url", "trusted-host", "proxy", "default-timeout", "timeout", "retries")


def _settings() -> dict[str, str]:
    """Read pip's settings on this machine, later places above earlier ones, the environment above all.

    pip itself is not asked: an environment made by uv has none.
    """
    home = Path.home()
    user = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    files = [Path("/etc/xdg/pip/pip.conf"), Path("/etc/pip.conf"), home / ".pip" / "pip.conf", user]
    config = configparser.RawConfigParser()
    config.read([*files, Path(os.environ.get("PIP_CONFIG_FILE") or os.devnull)], encoding="utf-8")
    found = {
        name: value for section in ("global", "install") if section in config for name, value in config.items(section)
    }
    for name in (*_TAKEN, "cert"):
        if value := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
            found[name] = value
    return found


@contextmanager
def volumes(cache: Path, wheels: Path) -> Iterator[list[str]]:
    """Give the volumes of a build; the settings are gone afterwards."""
    settings = _settings()
    config = configparser.RawConfigParser()
    config["global"] = {name: settings[name] for name in _TAKEN if settings.get(name)}
    mounts = []
    with TemporaryDirectory(dir=cache, prefix=PREFIX) as place:
        certificates = settings.get("cert") or os.environ.get("SSL_CERT_FILE")
        if certificates and Path(certificates).is_file():
            shutil.copyfile(certificates, Path(place) / "ca.crt")
            config["global"]["cert"] = f"{CONFIG_DIR}/ca.crt"
        if wheels.is_dir():
            config["global"]["find-links"] = WHEELS_DIR
            mounts.append(f"{wheels.resolve()}:{WHEELS_DIR}:ro")
        with (Path(place) / "pip.conf").open("w", encoding="utf-8") as file:
            config.write(file)
        yield [f"{place}:{CONFIG_DIR}:ro", *mounts]
