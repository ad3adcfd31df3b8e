"""Entry point of `python -m isotherm_local`: the `isotherm` command."""

from isotherm_local.cli import main

raise SystemExit(main())
