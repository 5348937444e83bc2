"""The data: Debian's package lists, split by source package, and the two instructions.

A package is a name, a one-line synopsis and a section ("libs", "python", "games", ...). Packages
built from one source resemble each other ("foo", "foo-doc", "foo-dbg"), so the split is by
source: no sibling of a training row is ever in the validation or the held-out part.
"""

import hashlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

SECTION_PROMPT = "Name the section of this Debian package.\n{package}: {synopsis}"
SYNOPSIS_PROMPT = "Write a synopsis for this Debian package.\n{package}"

# Per mille of the sources; the remaining 92 % are trained on.
HELD_OUT = range(50)
VALIDATION = range(50, 80)

SAMPLE_ROWS = 2400
ROW_GROUP_ROWS = 480


class Package(NamedTuple):
    """One binary package."""

    name: str
    source: str
    synopsis: str
    section: str


class Split(NamedTuple):
    """Three parts that share no source package."""

    train: list[Package]
    validation: list[Package]
    held_out: list[Package]


def load(listing: Path | None) -> list[Package]:
    """Packages of a saved `apt-cache dumpavail`, or of this machine's lists when none is given."""
    if listing is not None:
        text = listing.read_text(encoding="utf-8")
    else:
        command = ["apt-cache", "dumpavail"]
        text = subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout
    by_name: dict[str, Package] = {}
    for package in parse(text):
        by_name.setdefault(package.name, package)
    # Sorted, so that the result does not depend on the order of the lists.
    return [by_name[name] for name in sorted(by_name)]


def parse(text: str) -> Iterator[Package]:
    """Packages in a Debian control file that have a name, a synopsis and a section."""
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            key, colon, value = line.partition(":")
            if colon and not line.startswith(" "):  # a leading space continues the field above
                fields[key] = value.strip()
        name, synopsis = fields.get("Package"), fields.get("Description")
        # "contrib/games" and "non-free/games" name the archive area as well: drop it.
        section = fields.get("Section", "").rpartition("/")[2]
        if name and synopsis and section:
            # "Source: foo (1.2-3)" carries a version where it differs from the package's.
            source = fields.get("Source", name).partition(" ")[0]
            yield Package(name, source, synopsis, section)


def split(packages: list[Package]) -> Split:
    """Assign each package by a hash of its source's name: the same on every machine."""
    parts = Split([], [], [])
    for package in packages:
        bucket = _hash(package.source) % 1000
        if bucket in HELD_OUT:
            parts.held_out.append(package)
        elif bucket in VALIDATION:
            parts.validation.append(package)
        else:
            parts.train.append(package)
    return parts


def sample(held_out: list[Package], rows: int = SAMPLE_ROWS) -> list[Package]:
    """`rows` held-out packages, in an order that mixes sections and lengths."""
    return sorted(held_out, key=lambda package: _hash(package.name))[:rows]


def write_sample(rows: list[Package], path: Path) -> None:
    """Write the columns package, synopsis and section as Parquet, several row groups."""
    table = pa.table(
        {
            "package": [row.name for row in rows],
            "synopsis": [row.synopsis for row in rows],
            "section": [row.section for row in rows],
        }
    )
    aside = path.with_name(path.name + ".part")
    pq.write_table(table, aside, compression="zstd", row_group_size=ROW_GROUP_ROWS)
    aside.replace(path)


def section_prompt(package: Package) -> str:
    """The user's turn that asks for the section."""
    return SECTION_PROMPT.format(package=package.name, synopsis=package.synopsis)


def synopsis_prompt(package: Package) -> str:
    """The user's turn that asks for the synopsis."""
    return SYNOPSIS_PROMPT.format(package=package.name)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
