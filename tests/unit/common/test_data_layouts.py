# ruff: noqa: E501
"""Rows as well-known data sets write them: what is read, and what is refused with the mapping that settles it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from services.common.data.reading import Reading
from services.common.data.rows import Needs, Row, check_file, read_rows
from services.common.errors import ProblemsError
from services.common.job_spec import FieldsSpec

Q = "A farmer has 3 pens with 4 hens each. How many hens are there?"
SOLUTION = r"Each pen has 4 hens, so $3\cdot 4=12$. The answer is $\boxed{12}$."
USER = {"role": "user", "content": Q}
ASSISTANT = {"role": "assistant", "content": SOLUTION}
COMPARED = {"reference_answer": "accuracy"}
MISSING: dict[str, str] = {}


def write(directory: Path, *rows: Any) -> Path:
    path = directory / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, needs: Needs = "rl", **fields: Any) -> Row:
    reading = Reading(FieldsSpec.model_validate(fields).sources())
    (row,) = read_rows(path, needs, COMPARED if needs != "sft" else MISSING, reading=reading)
    return row


def refusal(path: Path, needs: Needs) -> str:
    with pytest.raises(ProblemsError) as caught:
        list(read_rows(path, needs, COMPARED if needs != "sft" else MISSING))
    return str(caught.value)


@pytest.mark.parametrize(
    ("record", "prompt", "completion", "answer"),
    [
        pytest.param(
            {"source": "cn_k12", "problem": Q, "solution": SOLUTION, "messages": [USER, ASSISTANT]},
            Q, SOLUTION, "12", id="NuminaMath-CoT",
        ),
        pytest.param(
            {"problem": Q, "solution": "By hand: 12.", "answer": "12", "problem_type": "Algebra", "uuid": "x",
             "generations": ["<think>a</think>b"], "is_reasoning_complete": [True],
             "correctness_math_verify": [True], "messages": [USER, ASSISTANT]},
            Q, SOLUTION, "12", id="OpenR1-Math-220k",
        ),
        pytest.param(
            {"problem": Q, "solution": SOLUTION, "answer": "12", "metadata": "{'a': 1}",
             "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": f"Solve it.\n{Q}\n"}, ASSISTANT]},
            f"Solve it.\n{Q}\n", SOLUTION, "12", id="open-s1",
        ),
        pytest.param(
            {"prompt": Q, "prompt_id": "x", "messages": [USER, ASSISTANT, {"role": "user", "content": "Sure?"},
                                                       {"role": "assistant", "content": r"Yes, \boxed{12}."}]},
            "Sure?", r"Yes, \boxed{12}.", "12", id="UltraChat",
        ),
        pytest.param(
            {"prompt": Q, "prompt_id": "x", "chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "13"}],
             "messages": [USER, ASSISTANT], "score_chosen": 8.0},
            Q, SOLUTION, "12", id="UltraFeedback",
        ),
        pytest.param(
            {"prompt": Q, "prompt_id": "x", "category": "Generation",
             "messages": [{"role": "system", "content": "s"}, USER, ASSISTANT]},
            Q, SOLUTION, "12", id="no_robots",
        ),
        pytest.param({"id": "x", "messages": [USER, ASSISTANT], "source": "tulu"}, Q, SOLUTION, "12", id="Tulu 3"),
        pytest.param(
            {"instruction": "Solve.", "input": Q, "output": SOLUTION, "text": f"### Solve. {Q}"},
            f"Solve.\n\n{Q}", SOLUTION, "12", id="Alpaca",
        ),
        pytest.param({"instruction": Q, "input": "", "output": SOLUTION}, Q, SOLUTION, "12", id="Alpaca without input"),
        pytest.param({"source": "m", "instruction": Q, "output": SOLUTION}, Q, SOLUTION, "12", id="MathInstruct"),
        pytest.param(
            {"instruction": "How many?", "context": "3 pens with 4 hens.", "response": SOLUTION, "category": "qa"},
            "3 pens with 4 hens.\nHow many?", SOLUTION, "12", id="Dolly",
        ),
        pytest.param(
            {"query": Q, "response": SOLUTION, "type": "MATH_Rephrased", "original_question": "other"},
            Q, SOLUTION, "12", id="MetaMath",
        ),
        pytest.param(
            {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": SOLUTION}]},
            Q, SOLUTION, "12", id="ShareGPT",
        ),
        pytest.param(
            {"system": "Think.", "conversations": [{"from": "user", "value": Q}, {"from": "assistant", "value": SOLUTION}]},
            Q, SOLUTION, "12", id="OpenThoughts",
        ),
        pytest.param(
            {"conversations": [{"from": "system", "value": "s", "weight": None}, {"from": "human", "value": Q, "weight": 0.0},
                               {"from": "gpt", "value": SOLUTION, "weight": 1.0}]},
            Q, SOLUTION, "12", id="SlimOrca",
        ),
        pytest.param(
            {"source": "x", "conversation": [{"input": "hi", "output": "hello"}, {"input": Q, "output": SOLUTION}]},
            Q, SOLUTION, "12", id="Capybara",
        ),
        pytest.param({"question": Q, "solution": SOLUTION, "answer": "12"}, Q, SOLUTION, "12", id="LIMO"),
        pytest.param(
            {"question": Q, "solution": SOLUTION, "answer": "12", "perturbation_type": "x",
             "seed_question": "other", "seed_answer": "13"},
            Q, SOLUTION, "12", id="GSM-plus",
        ),
        pytest.param(
            {"domain": ["Math"], "difficulty": 5.0, "problem": Q, "solution": SOLUTION, "answer": "12", "source": "x"},
            Q, SOLUTION, "12", id="Omni-MATH",
        ),
        pytest.param(
            {"problem": Q, "solution": SOLUTION, "answer": "12", "subject": "x", "level": 2, "unique_id": "a"},
            Q, SOLUTION, "12", id="MATH-500",
        ),
        pytest.param({"problem": Q, "answer": "12", "source": "x", "llama8b_solve_rate": 0.5},
                     Q, None, "12", id="Big-Math"),
        pytest.param({"problem": Q, "answer": 12, "solution": SOLUTION}, Q, SOLUTION, "12", id="DeepScaleR"),
        pytest.param(
            {"prompt": Q, "solution": "12", "data_source": "math_dapo", "source_prompt": [USER], "ability": "MATH",
             "reward_model": {"ground_truth": "12", "style": "rule"}},
            Q, None, "12", id="DAPO processed",
        ),
        pytest.param(
            {"prompt": [USER], "reward_model": {"ground_truth": '["12"]'}, "extra_info": {"index": 1}},
            Q, None, "12", id="Skywork-OR1",
        ),
        pytest.param(
            {"question": Q, "answer": "12", "answer_type": "Integer", "category": "Math", "difficulty": "Senior"},
            Q, None, "12", id="WebInstruct-verified",
        ),
        pytest.param({"ID": "2024-I-1", "Problem": Q, "Solution": SOLUTION, "Answer": 12},
                     Q, SOLUTION, "12", id="AIME"),
        pytest.param({"id": 1, "problem": Q, "answer": "012", "url": "x"}, Q, None, "012", id="AMC"),
        pytest.param(
            {"body": "3 pens.", "question": "How many?", "answer": "12 (hens)", "formula": "3*4"},
            "3 pens. How many?", None, "12 (hens)", id="ASDiv",
        ),
        pytest.param(
            {"question": {"problem": Q, "ground_truth_answer": "12"}, "label": {"steps": []}},
            Q, None, "12", id="PRM800K",
        ),
        pytest.param(
            {"problem": Q, "generated_solution": SOLUTION, "expected_answer": "12", "problem_type": "x"},
            Q, None, "12", id="OpenMathReasoning",
        ),
        pytest.param(
            {"messages": [USER], "reference_answer": "12", "level": 3}, Q, None, "12", id="OpenAI reinforcement item",
        ),
        pytest.param({"messages": [USER], "ground_truth": "12", "dataset": "gsm8k"}, Q, None, "12", id="Tulu 3 RLVR"),
        pytest.param(
            {"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "x"},
            "2+2?\n\nA. 3\nB. 4", None, "B", id="MMLU",
        ),
        pytest.param(
            {"question": "2+2?", "choices": {"text": ["3", "4"], "label": ["1", "2"]}, "answerKey": "2"},
            "2+2?\n\n1. 3\n2. 4", None, "2", id="ARC",
        ),
        pytest.param(
            {"question": "2+2?", "options": ["A)3", "B)4"], "rationale": "count", "correct": "B"},
            "2+2?\n\nA. 3\nB. 4", None, "B", id="AQuA",
        ),
        pytest.param({"input": Q, "output": SOLUTION, "license": "x"}, Q, SOLUTION, "12", id="input and output"),
    ],
)  # fmt: skip
def test_a_row_of_a_public_data_set_is_read(
    tmp_path: Path, record: dict[str, Any], prompt: str, completion: str | None, answer: str
) -> None:
    path = write(tmp_path, record)
    row = read(path)
    assert (row.messages[-1].content, row.completion, row.answer) == (prompt, completion, answer)
    if completion is None:
        assert "has no completion" in refusal(path, "sft")
    else:
        assert read(path, "sft").targets[-1].text == completion


@pytest.mark.parametrize(
    ("record", "needs", "mapping"),
    [
        ({"problem": Q, "solution": "12", "source": "x"}, "rl", '{reference = "solution"}'),
        ({"problem": Q, "solution": "12", "source": "x"}, "sft", '{completion = "solution"}'),
        ({"Problem": Q, "Solution": r"\frac{1}{2}"}, "rl", '{reference = "Solution"}'),
        ({"question": Q, "problem": "other", "answer": "12"}, "rl", '{prompt = "problem"}'),
        ({"problem": "other", "messages": [USER, ASSISTANT]}, "sft", '{messages = "messages"}'),
        ({"question": Q, "answer": "12", "final_answer": "13"}, "rl", '{reference = "final_answer"}'),
        ({"prompt": Q, "response": "a", "output": "b"}, "sft", '{completion = "output"}'),
        ({"prompt": Q, "output": "a", "messages": [USER, ASSISTANT]}, "sft", '{completion = "output"}'),
        ({"text": Q}, "rl", '{prompt = "FIELD"}'),
        ({"question": Q, "final_answer": "12", "r1_solution_1": SOLUTION}, "sft", '{completion = "r1_solution_1"}'),
        (
            {"problem": Q, "expected_answer": "12", "generated_solution": SOLUTION},
            "sft", '{completion = "generated_solution"}',
        ),
        ({"prompt": Q, "chosen": SOLUTION, "rejected": "13"}, "sft", '{completion = "chosen"}'),
        ({"prompt": Q, "short_answer": "12"}, "rl", '{reference = "short_answer"}'),
    ],
)  # fmt: skip
def test_what_is_missing_or_ambiguous_is_refused_with_the_mapping_to_write(
    tmp_path: Path, record: dict[str, Any], needs: Needs, mapping: str
) -> None:
    message = refusal(write(tmp_path, record), needs)
    assert f"data.fields = {mapping}" in message
    assert "row 1: " in message


def test_fields_that_say_the_same_are_no_conflict(tmp_path: Path) -> None:
    spaced = Q.replace(" ", "  ") + "\n"
    record = {
        "question": Q,
        "problem": spaced,
        "answer": "$12$",
        "final_answer": r"\boxed{12}",
        "completion": SOLUTION,
        "response": SOLUTION + "\n",
        "reward_model": {"ground_truth": 12.0},
    }
    row = read(write(tmp_path, record))
    assert (row.messages[0].content, row.answer, row.completion) == (Q, "$12$", SOLUTION)


@pytest.mark.parametrize(
    ("turn", "reason"),
    [
        ({"role": "tool", "content": "4"}, "has the role 'tool'"),
        ({"role": "function", "name": "f", "content": "4"}, "has the role 'function'"),
        ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "has tool_calls"),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "has function_call"),
        ({"from": "function_call", "value": "{}"}, "has the role 'function_call'"),
        ({"from": "observation", "value": "{}"}, "has the role 'observation'"),
    ],
)  # fmt: skip
def test_tool_turns_are_refused_with_their_row(
    tmp_path: Path, turn: dict[str, Any], reason: str
) -> None:
    path = write(
        tmp_path, {"messages": [USER, ASSISTANT]}, {"messages": [USER, turn, USER, ASSISTANT]}
    )
    message = refusal(path, "sft")
    assert f"row 2: messages[1] {reason}" in message
    assert "tools are not supported" in message


@pytest.mark.parametrize(
    "turn",
    [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "input_audio"}]},
    ],
)
def test_parts_that_are_not_text_are_refused(tmp_path: Path, turn: dict[str, Any]) -> None:
    assert "the models read text parts only" in refusal(
        write(tmp_path, {"messages": [turn, ASSISTANT]}), "sft"
    )


def test_every_assistant_turn_with_weight_is_a_target(tmp_path: Path) -> None:
    turns = [
        {"role": "developer", "content": "s"},
        {"role": "user", "content": "1", "name": "ann"},
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": [{"type": "text", "text": "2"}]},
        {"role": "assistant", "content": "two", "weight": 0},
        {"role": "user", "content": "3"},
        {"role": "assistant", "content": "three", "weight": 0.5, "reasoning_content": "hm"},
    ]
    row = read(write(tmp_path, {"messages": turns}), "sft")
    assert [(target.text, target.weight) for target in row.targets] == [
        ("one", 1.0),
        ("<think>\nhm\n</think>\n\nthree", 0.5),
    ]
    assert [len(target.messages) for target in row.targets] == [2, 6]


def test_a_row_without_a_turn_of_weight_is_refused_for_sft(tmp_path: Path) -> None:
    path = write(tmp_path, {"messages": [USER, {**ASSISTANT, "weight": 0}]})
    assert "has no assistant turn with a weight above 0" in refusal(path, "sft")
    negative = write(tmp_path, {"messages": [USER, {**ASSISTANT, "weight": -1}]})
    assert "messages[1].weight is -1" in refusal(negative, "sft")


def test_turns_of_a_prompt_are_not_trained(tmp_path: Path) -> None:
    history = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, USER]
    row = read(write(tmp_path, {"prompt": history, "completion": [ASSISTANT]}), "sft")
    assert [target.text for target in row.targets] == [SOLUTION]


def test_a_conversation_that_ends_with_the_user_trains_its_earlier_turns(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
    row = read(
        write(tmp_path, {"conversations": [*turns, {"from": "human", "value": "bye"}]}), "sft"
    )
    assert [target.text for target in row.targets] == ["hello"]


def test_a_field_mapping_reads_paths_templates_and_constants(tmp_path: Path) -> None:
    record = {
        "task": {"text": Q, "hint": "Count {all}."},
        "solutions": [{"text": SOLUTION}],
        "result": "12",
        "answer": "13",
        "quality": 0.5,
        "Best Answer": "14",
    }
    path = write(tmp_path, record)
    row = read(
        path,
        "sft",
        prompt="{task.text}\n\n{task.hint}{{x}}{absent?}",
        completion="solutions.0.text",
        reference="result",
        system="'Be brief.'",
        weight="quality",
    )
    assert [turn.content for turn in row.messages] == ["Be brief.", f"{Q}\n\nCount {{all}}.{{x}}"]
    assert (row.completion, row.answer) == (SOLUTION, "12")
    assert row.targets[0].weight == 0.5
    assert read(path, prompt="task.text", reference="Best Answer").answer == "14"
    # What is not mapped is recognised.
    assert read(path, prompt="task.text").answer == "13"


def test_a_mapping_settles_a_conflict(tmp_path: Path) -> None:
    path = write(tmp_path, {"problem": Q, "solution": "12"})
    assert read(path, reference="solution").answer == "12"
    assert read(path, "sft", completion="solution").completion == "12"
    path = write(tmp_path, {"problem": "other", "messages": [USER, ASSISTANT]})
    assert read(path, messages="messages").messages[-1].content == Q
    assert read(path, "sft", prompt="problem", completion="messages.1.content").answer == "12"


def test_a_field_that_the_mapping_names_and_a_row_lacks_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"q": Q, "a": "12"}, {"q": Q})
    reading = Reading(FieldsSpec(prompt="q", reference="a").sources())
    with pytest.raises(
        ProblemsError, match=r"row 2: has no field 'a', which data\.fields\.reference"
    ):
        list(read_rows(path, "rl", reading=reading))


@pytest.mark.skipif("DIRL_TEST_CASES" not in os.environ, reason="DIRL_TEST_CASES is not set")
def test_every_file_of_the_collection_serves_what_it_must() -> None:
    directory = Path(os.environ["DIRL_TEST_CASES"]) / "layouts"
    expected = json.loads((directory / "expected.json").read_text())
    assert expected
    for name, must in expected.items():
        for needs in must["uses"]:
            fields = MISSING if needs == "sft" else COMPARED
            assert len(list(read_rows(directory / name, needs, fields))) == must["rows"], name
        assert check_file(directory / name).num_problems == 0, name
