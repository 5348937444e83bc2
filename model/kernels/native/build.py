"""Compiles `src/` to a shared library. Standard library only: the build back end imports it.

    python model/kernels/native/build.py

does it by hand, after a change to the sources.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"
LIBRARY = HERE / "libgemmaray.so"

# The file that asks the processor must run on any of them.
ANYWHERE = "cpu.cpp"
COMMON = ["-std=c++17", "-O3", "-fPIC", "-fno-exceptions", "-fno-rtti"]
# GCC 12 warns of every AVX-512 intrinsic that leaves lanes undefined on purpose.
AVX512 = ["-march=skylake-avx512", "-mavx512bf16", "-mavx512vnni", "-mprefer-vector-width=512"]
AVX512 += ["-fopenmp", "-Wno-maybe-uninitialized", "-Wno-uninitialized"]


class BuildError(Exception):
    """The library can't be compiled here; the message says why."""


def digest() -> str:
    """Identify the sources: a library carries the digest of those it was made from."""
    found = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def build() -> Path:
    """Compile and link; returns the library's path.

    Raises:
        BuildError: there is no C++ compiler, it is not for x86-64 Linux, or it failed.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise BuildError("the native kernels are for Linux on x86-64")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise BuildError("no C++ compiler: install g++, or name one in CXX")
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        objects = Path(folder)
        sources = sorted(SOURCES.glob("*.cpp"))
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda source: _compile(compiler, source, objects), sources))
        linked = objects / LIBRARY.name
        # Not linked with OpenMP: its symbols are found in the library that torch has loaded, so
        # that both share one pool of threads. A second pool would spin against the first.
        _run([compiler, "-shared", *map(str, sorted(objects.glob("*.o"))), "-o", str(linked)])
        linked.replace(LIBRARY)
    return LIBRARY


def _compile(compiler: str, source: Path, objects: Path) -> None:
    flags = [f'-DGEMMARAY_DIGEST="{digest()}"'] if source.name == ANYWHERE else AVX512
    target = objects / f"{source.stem}.o"
    _run([compiler, *COMMON, *flags, "-c", str(source), "-o", str(target)])


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise BuildError(f"{command[0]} can't be run: {error.strerror}") from error
    if result.returncode:
        raise BuildError(f"{command[0]} failed:\n{result.stderr.strip()[-2000:]}")


def main() -> int:
    """Build, and say what came of it."""
    try:
        path = build()
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    print(path)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
