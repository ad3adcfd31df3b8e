"""Import a real measurement: infrared thermography of a pouch cell, 121 points x 977 s (doi 10.1002/batt.202100401).

Usage   python -m isotherm.data.infrared SOURCE_DIR OUT [--bin-seconds 40] [--format h5]
Reads   SOURCE_DIR/Exp.mat (E[y, x, t] in degC at xe, ye in mm), Ta.txt (ambient), LICENSE.txt and SOURCE.txt
Writes  OUT/measurements.{h5,parquet} in m, s and degC, OUT/problem.yaml, OUT/ambient.csv, and the licence beside them
Frame   plate 190 mm x 150 mm with its origin at the corner from which xe and ye count, both axes increasing
"""

from __future__ import annotations

import argparse
from pathlib import Path

from isotherm import tekton


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="SOURCE_DIR", help="folder with Exp.mat and Ta.txt")
    parser.add_argument("out", type=Path, help="dataset folder to write")
    parser.add_argument(
        "--bin-seconds",
        type=float,
        default=40.0,
        help="average frames over so many seconds (default %(default)g)",
    )
    parser.add_argument("--format", choices=["h5", "parquet"], default="h5", help="file format (default %(default)s)")
    return parser.parse_args()


def run() -> None:
    """Import what the command line names."""
    a = arguments()  # before the imports: --help answers at once
    from isotherm.data import schema, thermography

    dataset = thermography.import_measurement(a.source, a.out, bin_seconds=a.bin_seconds, fmt=a.format)
    print(f"{a.out}: {schema.describe(dataset)}")


def main() -> int:
    """Run the program."""
    return tekton.main(run)


if __name__ == "__main__":
    raise SystemExit(main())
