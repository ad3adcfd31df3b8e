"""Make a dataset of a reference problem whose truth is known (HeatInv), with seeded noise.

Usage   python -m isotherm.data.generate heatinv OUT [--points N] [--points-file FILE] [--seed S] [--noise 0.1]
Reads   optionally a text file of points, one `x y t` a row (PINNacle's `heatinv_points.dat`; its first N are taken)
Writes  OUT/measurements.{h5,parquet}, OUT/validation.{h5,parquet} (other points, other noise), OUT/problem.yaml
"""

from __future__ import annotations

import argparse
from pathlib import Path

from isotherm import tekton


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("problem", choices=["heatinv"], help="the reference problem")
    parser.add_argument("out", type=Path, help="dataset folder to write")
    parser.add_argument("--points", type=int, default=2500, help="rows to train on (default %(default)s)")
    parser.add_argument("--points-file", type=Path, help="take the points from this file, not uniform ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of points and noise (default %(default)s)")
    parser.add_argument(
        "--noise", type=float, default=0.1, help="standard deviation of the noise (default %(default)s)"
    )
    parser.add_argument("--format", choices=["h5", "parquet"], default="h5", help="file format (default %(default)s)")
    return parser.parse_args()


def run() -> None:
    """Generate what the command line asks for."""
    a = arguments()  # before the imports: --help answers at once
    from isotherm.data import benchmarks, schema

    dataset = benchmarks.generate(
        a.out, n=a.points, seed=a.seed, noise=a.noise, fmt=a.format, points_file=a.points_file
    )
    print(f"{a.out}: {schema.describe(dataset)}")


def main() -> int:
    """Run the program."""
    return tekton.main(run)


if __name__ == "__main__":
    raise SystemExit(main())
