import pytest

from services.common.data.boxed import innermost, last_box, outer_boxes


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{72}.", "72"),
        (r"\fbox{5}", "5"),
        (r"\boxed{3}. Wait, no. Hence \boxed{5}.", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed {7}", "7"),
        (r"\boxed 7 is it", "7"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{a \} b}", r"a \} b"),
        (r"\boxed{}", ""),
    ],
)
def test_the_last_box_is_found_with_its_nested_braces(text: str, content: str) -> None:
    box = last_box(text)
    assert box is not None
    assert box.closed
    assert box.content == content


@pytest.mark.parametrize(
    "text", [r"\boxed{5", r"\boxed{3} and \boxed{\frac{1}{2}", r"\boxed", r"\boxed{5\}"]
)
def test_a_box_left_open_is_last_and_not_closed(text: str) -> None:
    box = last_box(text)
    assert box is not None
    assert not box.closed


def test_other_commands_are_no_boxes() -> None:
    assert outer_boxes(r"\boxedx{3} boxed{4} \unboxed{5}") == []


def test_boxes_in_boxes_are_peeled() -> None:
    assert innermost(r" \boxed{\fbox{3}} ") == "3"
    assert innermost(r"\boxed{3}+1") == r"\boxed{3}+1"


def test_offsets_enclose_the_box() -> None:
    text = r"a \boxed{1} b \boxed{2} c"
    assert [text[box.start : box.end] for box in outer_boxes(text)] == [r"\boxed{1}", r"\boxed{2}"]


def test_hostile_text_costs_linear_time() -> None:
    assert len(outer_boxes(r"\boxed{1} " * 50_000)) == 50_000
    assert len(outer_boxes(r"\boxed{" * 50_000)) == 1
    nested = r"\boxed{" * 50_000 + "1" + "}" * 50_000
    assert innermost(nested).startswith(r"\boxed{")
