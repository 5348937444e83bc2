"""Our packages as a wheel, made of what is installed here.

Ray installs it with pip on each node. It names no dependencies, or pip would fetch torch and all
the rest for each job, though they are in the image. Compiled kernels go along: where they don't
fit, their loader says so and plain torch computes. Its name carries a digest of its contents, since
Ray takes wheels of one name for the same.
"""

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cluster.environment import PACKAGES, package_folder

from .errors import SubmissionError

LIBRARIES = ".so"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # equal contents make equal files
WHEEL = "Wheel-Version: 1.0\nGenerator: gemmaray\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def build_wheel(folder: Path) -> Path:
    """Write the wheel into a folder.

    Raises:
        SubmissionError: gemmaray is not installed, so its version is unknown.
    """
    try:
        number = version("gemmaray")
    except PackageNotFoundError:
        raise SubmissionError("gemmaray is not installed here: pip install it first") from None
    info = f"gemmaray-{number}.dist-info"
    files = dict(_package_files())
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: gemmaray\nVersion: {number}\n".encode()
    )
    files[f"{info}/WHEEL"] = WHEEL.encode()
    record = "".join(f"{name},{_hash(data)},{len(data)}\n" for name, data in files.items())
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    build = f"0{hashlib.sha256(record.encode()).hexdigest()[:16]}"
    wheel = folder / f"gemmaray-{number}-{build}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)
    return wheel


def has_kernels(wheel: Path) -> bool:
    """Whether a wheel holds compiled kernels."""
    with zipfile.ZipFile(wheel) as archive:
        return any(name.endswith(LIBRARIES) for name in archive.namelist())


def _package_files() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        folder = package_folder(package)
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _hash(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"sha256={digest}"
