"""Python and the packages, held against what gemmaray requires of them."""

import platform
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from cluster.environment import PACKAGES, ForeignPackageError, check_packages

from .finding import Finding, ok, problem

NAME = "gemmaray"
AGAIN = "install gemmaray again"

Installed = Callable[[str], str | None]
Requires = Callable[[str], Iterable[str]]


def examine() -> Iterator[Finding]:
    """Check the software of this process."""
    try:
        wanted = metadata(NAME)["Requires-Python"] or ""
    except PackageNotFoundError:
        yield problem("packages", "gemmaray is not installed", "pip install it")
        return
    yield check_python(platform.python_version(), wanted)
    yield check_names()
    yield from check_versions(installed_version, requirements)


def installed_version(name: str) -> str | None:
    """Give the version of a package, None if it is not here."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def requirements(name: str) -> list[str]:
    """List what a package says that it needs."""
    return requires(name) or []


def check_python(running: str, wanted: str) -> Finding:
    """Hold the interpreter against the versions that gemmaray is for."""
    if SpecifierSet(wanted).contains(running, prereleases=True):
        return ok("python", running)
    return problem("python", f"{running}; gemmaray is for {wanted}", "make an environment with it")


def check_names() -> Finding:
    """Look for folders of others in the way of our packages, whose names are short."""
    try:
        check_packages()
    except ForeignPackageError as error:
        return problem("names", str(error), "see there")
    return ok("names", f"{', '.join(PACKAGES)} are gemmaray's own")


def check_versions(installed: Installed, needs: Requires) -> Iterator[Finding]:
    """Hold each package against the range that gemmaray names, with the extras that it asks for."""
    wanted = list(_active(needs(NAME)))
    found = 0
    for requirement in wanted:
        faults = list(_faults(requirement, installed, needs))
        yield from faults
        found += not faults
    if found == len(wanted):
        yield ok("packages", f"{found} that gemmaray requires are here, in versions it works with")


def _active(lines: Iterable[str], extra: str = "") -> Iterator[Requirement]:
    """Parse those requirements that hold here, with this extra or without any."""
    for line in lines:
        requirement = Requirement(line)
        marker = requirement.marker
        if extra and (marker is None or marker.evaluate({"extra": ""})):
            continue  # it is there without the extra, too
        if marker is None or marker.evaluate({"extra": extra}):
            yield requirement


def _faults(requirement: Requirement, installed: Installed, needs: Requires) -> Iterator[Finding]:
    name, here = requirement.name, installed(requirement.name)
    if here is None:
        yield problem("packages", f"{name} is not installed", AGAIN)
        return
    if not requirement.specifier.contains(here, prereleases=True):
        fix = f'pip install "{name}{requirement.specifier}"'
        yield problem("packages", f"{name} is {here}, not {requirement.specifier}", fix)
    for extra in sorted(requirement.extras):
        missing = [r.name for r in _active(needs(name), extra) if installed(r.name) is None]
        if missing:
            text = f"{', '.join(missing)} of {name}[{extra}] is not installed"
            yield problem("packages", text, f'pip install "{name}[{extra}]"')
