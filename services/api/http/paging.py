"""Pages of lists, from rows or from views."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from services.api.schemas.base import View
from services.api.schemas.envelope import Item, Page

Shown = TypeVar("Shown", bound=View)


class HasId(Protocol):
    """A row with an id."""

    @property
    def id(self) -> str:
        """Id that the API shows."""
        ...


def to_page(kind: type[Shown], rows: Iterable[HasId], limit: int) -> Page[Shown]:
    """A page of rows, of which one more than `limit` was read when there are more."""
    return make_page([(row.id, kind.model_validate(row)) for row in rows], limit)


def to_page_after(
    kind: type[Shown], rows: Iterable[HasId], after: str | None, limit: int
) -> Page[Shown]:
    """A page of rows that were all read; an unknown `after` starts at the beginning."""
    items = [(row.id, kind.model_validate(row)) for row in rows]
    ids = [item_id for item_id, _ in items]
    start = ids.index(after) + 1 if after in ids else 0
    return make_page(items[start : start + limit + 1], limit)


def make_page(items: Sequence[tuple[str, Item]], limit: int) -> Page[Item]:
    """A page of (id, item) pairs, of which one more than `limit` was read when there are more."""
    shown = items[:limit]
    return Page(
        data=[item for _, item in shown],
        first_id=shown[0][0] if shown else None,
        last_id=shown[-1][0] if shown else None,
        has_more=len(items) > limit,
    )
