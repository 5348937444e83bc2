"""What a request asks of the cache, and what it has of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .sequence import Sequence

if TYPE_CHECKING:
    from .prefix_tree import Group

# Sorts those first that have the most work before them; the last part tells equals apart.
Rank = tuple[int, int, int]


@dataclass(slots=True, eq=False)
class Admission:
    """A request in the scheduler's eyes.

    Attributes:
        request_id: whose it is.
        prompt: its first sequence; its pages come with the admission.
        prompt_tokens: how many there are.
        branches: tokens that each continuation of the prompt stores after it.
        digests: the names of the prompt's full pages; none where prefixes are not looked up.
        reusable: how many of them it may take over instead of computing them.
        waits: whether it has not begun.
        arrival: its number among all requests.
        due_after: it goes first when this many requests have begun since the engine was built.
        pages: the most pages that it can hold from now on, apart from those of its base.
        group: its place in the prefix tree, until its prompt is computed.
        base: the pinned prefix that it started from.
        opening: the groups that wait until it has computed their prefix, the shortest first.
        sequences: those it has now.
    """

    request_id: str
    prompt: Sequence
    prompt_tokens: int
    branches: list[int]
    digests: list[bytes] = field(default_factory=list)
    reusable: int = 0
    waits: bool = True
    arrival: int = 0
    due_after: int = 0
    pages: int = 0
    group: "Group | None" = None
    base: "Group | None" = None
    opening: "list[Group]" = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)

    @property
    def width(self) -> int:
        """The most sequences it can have at any one time."""
        return max(1, len(self.branches))

    @property
    def rank(self) -> Rank:
        """Its place among others: the longest answer first, then the longest prompt."""
        return (-max(self.branches, default=0), -self.prompt_tokens, self.arrival)

    def page_after(self, depth: int) -> bytes | None:
        """Return the name of the page behind the first `depth`, None where nothing is reusable."""
        return self.digests[depth] if depth < self.reusable else None
