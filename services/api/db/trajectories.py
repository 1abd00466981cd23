"""Groups of trajectories without the arrays of every token, which are most of them and which no
list shows.
"""

from typing import Any, Final

from sqlalchemy import Row, Select, Text, func, literal, select
from sqlalchemy.dialects.postgresql import ARRAY, aggregate_order_by

from services.api.db.record_tables import TrajectoryGroup

_ARRAYS: Final = ("token_ids", "unmask_step", "logprobs", "confidences")
GroupRow = Row[tuple[Any, ...]] | TrajectoryGroup
"""What has a group's columns; `payload` may lack the arrays."""


def without_arrays(statement: Select[TrajectoryGroup]) -> Select[tuple[Any, ...]]:
    """The groups of a statement with a payload that lacks the arrays; the database leaves them out."""
    table = TrajectoryGroup
    each = func.jsonb_array_elements(table.payload["group"]["trajectories"])
    item = each.table_valued("value", with_ordinality="place").render_derived(name="item")
    lean = item.c.value.op("-")(literal(list(_ARRAYS), ARRAY(Text)))
    trajectories = (
        select(func.jsonb_agg(aggregate_order_by(lean, item.c.place)))
        .select_from(item)
        .scalar_subquery()
    )
    payload = func.jsonb_set(
        table.payload, literal(["group", "trajectories"], ARRAY(Text)), trajectories
    )
    columns = (column for column in table.__table__.columns if column.name != "payload")
    return statement.with_only_columns(*columns, payload.label("payload"))
