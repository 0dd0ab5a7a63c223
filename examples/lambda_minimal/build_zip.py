"""Builds the zip that Lambda takes: the app, streamlet, and what it needs, as wheels for Lambda's platform.

    python examples/lambda_minimal/build_zip.py --out function.zip                  0.6 MB
    python examples/lambda_minimal/build_zip.py --out function.zip --parquet        38 MB; a direct upload takes 50

It needs pip and a package index, and no Docker: wheels are chosen for the function's runtime (--architecture, --python), not for
the machine that builds. Take an app of your own with --app, and create the function with the handler `app.lambda_handler`:

    aws lambda create-function --function-name orders --runtime python3.13 --architectures x86_64 --handler app.lambda_handler \\
        --zip-file fileb://function.zip --role ROLE_ARN --timeout 60 --memory-size 512
    aws lambda create-event-source-mapping --function-name orders --event-source-arn STREAM_ARN --starting-position TRIM_HORIZON \\
        --function-response-types ReportBatchItemFailures --bisect-batch-on-function-error

Of pyarrow goes what Parquet does not need: other formats' and file systems' modules, Flight, headers, sources, tests. What is left
imports `pyarrow`, `pyarrow.compute`, `pyarrow.json` and `pyarrow.parquet`; files reach S3 through obstore, not through Arrow.
"""

from __future__ import annotations

import argparse
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

# Lambda's name of an architecture -> the wheels'.
ARCHITECTURES: Final = {"x86_64": "x86_64", "arm64": "aarch64"}
# The minor version of the runtime's glibc: Amazon Linux 2 for Python 3.11, 2023 for those after it. A wheel for a newer one is not loaded.
GLIBC_AL2, GLIBC_AL2023 = 26, 34
# A plain file that everybody may read. Lambda runs as a user of its own, and keeps the modes: those of a strict umask would shut it out.
READABLE: Final = stat.S_IFREG | 0o644
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


def requirements(*, parquet: bool) -> list[str]:
    """What streamlet itself asks for: without the bounds pip may go back to a version that is too old, if only that has a wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(project["optional-dependencies"]["parquet"] if parquet else ())]


def platforms(architecture: str, python: str) -> list[str]:
    """The tags of the wheels that the runtime can load."""
    glibc = GLIBC_AL2 if python == "3.11" else GLIBC_AL2023
    names = ["manylinux2014", *(f"manylinux_2_{minor}" for minor in range(17, glibc + 1))]
    return [f"{name}_{ARCHITECTURES[architecture]}" for name in names]


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
    options += [f"--platform={name}" for name in platforms(architecture, python)]
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), *packages]
    subprocess.run(command, check=True)  # noqa: S603  the packages are named above


def unpacked(target: Path, *, app: Path, parquet: bool, architecture: str, python: str) -> None:
    """What the zip holds, as a folder."""
    install(target, requirements(parquet=parquet), architecture=architecture, python=python)
    shutil.copytree(ROOT / "streamlet", target / "streamlet")
    for path in sorted(target.rglob("*")):
        name = path.relative_to(target).as_posix()
        if path.is_file() and (NOT_IN_LAMBDA.match(name) or NOT_FOR_PARQUET.match(name)):
            path.unlink()
    shutil.copy(app, target / "app.py")


def build(out: Path, *, app: Path | None = None, parquet: bool = False, architecture: str = "x86_64", python: str = "3.13") -> Path:
    """Write the zip, and return where it is. `app`: a file other than the example's."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        app = app or HERE / ("app_parquet.py" if parquet else "app.py")
        unpacked(target, app=app, parquet=parquet, architecture=architecture, python=python)
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in sorted(target.rglob("*")):
                if path.is_file():
                    entry = zipfile.ZipInfo.from_file(path, path.relative_to(target))
                    entry.external_attr = READABLE << 16
                    archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED, compresslevel=9)
    return out


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("function.zip"))
    parser.add_argument("--app", type=Path, metavar="FILE", help="becomes app.py in the zip (default: the example)")
    parser.add_argument("--parquet", action="store_true", help="with pyarrow and obstore, for a ParquetSink")
    parser.add_argument("--architecture", choices=list(ARCHITECTURES), default="x86_64", help="the function's (default: %(default)s)")
    parser.add_argument(
        "--python", default="3.13", metavar="VERSION", help="of the function's runtime, 3.11 or later (default: %(default)s)"
    )
    given = parser.parse_args()
    built = build(given.out, app=given.app, parquet=given.parquet, architecture=given.architecture, python=given.python)
    print(f"{built}: {built.stat().st_size / 1e6:.1f} MB")
