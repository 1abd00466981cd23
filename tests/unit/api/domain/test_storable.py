"""Values that the database refuses."""

import math

from services.api.domain.storable import storable


def test_what_jsonb_refuses_is_replaced_wherever_it_stands() -> None:
    value = {"text": "a\x00b", "list": [math.nan, {"x": math.inf}, 1.5], "n": 3, "none": None}

    assert storable(value) == {
        "text": "a\ufffdb",
        "list": [None, {"x": None}, 1.5],
        "n": 3,
        "none": None,
    }
