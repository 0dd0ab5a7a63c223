"""Builds the zip that Lambda takes: the app, streamlet, and what it needs, as wheels for Lambda's platform.

    python examples/lambda_minimal/build_zip.py --out function.zip                  0.5 MB
    python examples/lambda_minimal/build_zip.py --out function.zip --parquet        38 MB; a direct upload takes 50

It needs pip and a package index, and no Docker: wheels are chosen by name (--architecture, --python). Of pyarrow goes what
Parquet does not need: other formats' and file systems' modules, Flight, headers, sources, tests. What is left imports
`pyarrow`, `pyarrow.compute`, `pyarrow.json` and `pyarrow.parquet`; files reach S3 through obstore, not through Arrow.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parents[1] / "streamlet"

CORE: Final = ("msgspec", "orjson")
PARQUET: Final = ("obstore", "pyarrow")
# A function is no broker and no command line.
NOT_IN_LAMBDA: Final = re.compile(r"streamlet/(broker|cli)/|.*/__pycache__/|bin/")
# Of pyarrow. Only names that are known to be spared: what a later version brings stays until somebody has tried.
NOT_FOR_PARQUET: Final = re.compile(
    r"pyarrow/("
    r"(include|includes|src|tests)/"
    r"|.*\.(pyx|pxi|pxd|h|cc|cpp)$"
    r"|libarrow_(flight|s3|python_flight)[._]"  # loaded by the modules of the next line only
    r"|_(acero|azurefs|csv|cuda|dataset|dataset_orc|dataset_parquet|dataset_parquet_encryption|feather|flight|gcsfs|hdfs|orc"
    r"|parquet_encryption|s3fs|substrait|pyarrow_cpp_tests)\."
    r"|libarrow_python\.so$|libarrow_python\.so\.\d+\.\d+"  # copies of libarrow_python.so.N, which is what is asked for
    r"|libarrow_python_parquet_encryption\."
    r")"
)


def install(target: Path, packages: Iterable[str], *, architecture: str, python: str) -> None:
    """Wheels into a folder. Raises CalledProcessError where pip finds none."""
    options = [
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--only-binary=:all:",
        "--implementation=cp",
        f"--python-version={python}",
    ]
    platforms = [f"--platform={name}_{architecture}" for name in ("manylinux_2_28", "manylinux_2_17", "manylinux2014")]
    command = [sys.executable, "-m", "pip", "install", *options, *platforms, "--target", str(target), *packages]
    subprocess.run(command, check=True)  # noqa: S603  the packages are named above


def unpacked(target: Path, *, parquet: bool, architecture: str, python: str) -> None:
    """What the zip holds, as a folder."""
    install(target, CORE + (PARQUET if parquet else ()), architecture=architecture, python=python)
    shutil.copytree(PACKAGE, target / "streamlet")
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if path.is_file() and (NOT_IN_LAMBDA.match(name) or NOT_FOR_PARQUET.match(name)):
            path.unlink()
    shutil.copy(HERE / ("app_parquet.py" if parquet else "app.py"), target / "app.py")


def build(out: Path, *, parquet: bool = False, architecture: str = "x86_64", python: str = "3.13") -> Path:
    """Write the zip, and return where it is."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        unpacked(target, parquet=parquet, architecture=architecture, python=python)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(target.rglob("*")):
                if path.is_file():
                    archive.write(path, path.relative_to(target))
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("function.zip"))
    parser.add_argument("--parquet", action="store_true", help="with pyarrow and obstore, for a ParquetSink")
    parser.add_argument("--architecture", choices=["x86_64", "aarch64"], default="x86_64", help="aarch64 for Lambda's arm64")
    parser.add_argument("--python", default="3.13", help="the runtime's version")
    given = parser.parse_args()
    built = build(given.out, parquet=given.parquet, architecture=given.architecture, python=given.python)
    print(f"{built}: {built.stat().st_size / 1e6:.1f} MB")
