"""Which files a job reads: what its paths, folders and globs stand for."""

import posixpath
import re
from collections.abc import Iterator, Sequence

from .errors import InputError
from .jsonl import is_jsonl
from .locations import STORE_ERRORS, Location, filesystem, parse_location
from .s3 import ENVIRONMENT, S3Settings

# What is read of a folder.
DATA = re.compile(r"\.(parquet|jsonl(\.gz|\.zst)?)$")


def find_files(patterns: Sequence[str], s3: S3Settings = ENVIRONMENT) -> list[Location]:
    """List the files that paths, folders and globs stand for, each once, sorted by path.

    A folder gives the *.parquet files, or the *.jsonl, *.jsonl.gz and *.jsonl.zst files, at any
    depth in it, but for names that start with `_` or `.`, as every Parquet reader has it.

    Raises:
        InputError: one of them matches nothing, can't be listed, or is a folder with files of both
            kinds.
        StorageError: one of them is no path that is read.
    """
    found: set[Location] = set()
    for pattern in patterns:
        location = parse_location(pattern)
        try:
            paths = list(_expanded(location, s3))
        except STORE_ERRORS as error:
            raise InputError(f"{pattern} can't be listed: {error}") from error
        if not paths:
            raise InputError(f"{pattern} matches no Parquet file and no JSON lines")
        found |= {Location(location.scheme, path) for path in paths}
    return sorted(found, key=str)


def refuse_output_among_inputs(
    patterns: Sequence[str], files: Sequence[Location], output: str
) -> None:
    """Make sure that no part of the output would be taken for input by the next run.

    Raises:
        InputError: the output lies where input is looked for.
    """
    folder = str(parse_location(output))
    shallow = {posixpath.dirname(str(file)) for file in files}
    deep = [str(parse_location(pattern)).split("/**")[0] for pattern in patterns]
    if folder in shallow or any(f"{folder}/".startswith(f"{path}/") for path in deep):
        raise InputError(f"the output {output} lies among the input files: choose another folder")


def _expanded(location: Location, s3: S3Settings) -> Iterator[str]:
    fs, path = filesystem(location.scheme, s3), location.path
    if fs.isfile(path):
        yield path
    elif fs.isdir(path):
        found = [file for file in fs.find(path) if DATA.search(file)]
        yield from _of_one_kind(location, [file for file in found if _is_shown(file, path)])
    elif set(path) & set("*?["):
        # With details, a listing says what is a file: asking for each would take a request.
        found = fs.glob(path, detail=True)
        yield from (file for file, info in found.items() if info["type"] == "file")
    else:
        raise FileNotFoundError("there is no such file or folder")


def _is_shown(file: str, folder: str) -> bool:
    below = posixpath.relpath(file, folder).split("/")
    return not any(part[0] in "._" for part in below)


def _of_one_kind(folder: Location, files: list[str]) -> list[str]:
    lines = sum(map(is_jsonl, files))
    if 0 < lines < len(files):
        raise InputError(
            f"{folder} holds both Parquet files and JSON lines: name those to read with a glob, as "
            f"in {folder}/**/*.parquet"
        )
    return files
