"""Entry point of `python -m isotherm_local.images`."""

from isotherm_local.images.command import main

raise SystemExit(main())
