"""`dirl data check` as a user calls it: on files, with a model, against a validation file."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from services.common.model.tiny import make_tiny_model


def check(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "services.api.cli", "data", "check", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def write(path: Path, *rows: Any) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "tiny"
    make_tiny_model(path, seed=0)
    return str(path)


def test_a_file_is_shown_as_the_model_sees_it(tmp_path: Path, model: str) -> None:
    turns = [
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2+2?"},
        {"role": "assistant", "content": "4"},
    ]
    train = write(
        tmp_path / "train.jsonl", {"messages": turns}, {"messages": turns[:2], "level": 9}
    )
    spec = tmp_path / "job.toml"
    spec.write_text('[prompt]\nsystem = "Be brief."\n')

    done = check(
        tmp_path, train, "--model", model, "--json", "--spec", "job.toml", "--set", 'data.filter=level == 9'
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    preview = json.loads(done.stdout)["preview"]
    assert preview["shown"] == [
        {
            "place": "row 2",
            "prompt": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n"
            "<|im_start|>assistant\n",
            "completion": "2<|im_end|>",
        }
    ]
    assert sum(preview["sample_tokens"].values()) == preview["measured"] == 1

    text = check(tmp_path, train, "--model", model).stdout
    assert "lengths of 3 samples in tokens" in text
    assert "--- row 1: trained\n4<|im_end|>" in text


def test_overlap_duplicates_and_references_are_reported(tmp_path: Path) -> None:
    rows = [{"prompt": f"{n}?", "answer": "1"} for n in range(3)]
    train = write(tmp_path / "train.jsonl", *rows, rows[0], {"prompt": "x", "answer": "..."})
    write(tmp_path / "test.jsonl", rows[1], {"prompt": "new", "answer": "2"})

    done = check(tmp_path, train, "--validation", "test.jsonl", "--json")

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["duplicates"] == {"count": 1, "examples": [["row 4", "row 1"]]}
    assert (report["overlap"]["exact"], report["overlap"]["examples"]) == (1, [["row 1", "row 2"]])
    references = report["reference_answers"]
    assert references["audited"] == 2
    (found,) = references["examples"]
    assert (found["place"], found["reference_answer"]) == ("row 5", "...")
    assert found["status"] in ("invalid", "flagged")

    text = check(tmp_path, train, "--validation", "test.jsonl").stdout
    assert "of 2 validation rows, 1 have a training prompt" in text
    assert "row 5: '...'" in text


def test_a_row_that_the_template_refuses_fails(tmp_path: Path, model: str) -> None:
    copy = tmp_path / "model"
    copy.mkdir()
    for file in Path(model).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    template = copy / "chat_template.jinja"
    template.write_text(
        "{{ raise_exception('No system role') if messages[0].role == 'system' else 'x' }}"
    )
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    train = write(
        tmp_path / "t.jsonl",
        {"messages": turns},
        {"messages": [{"role": "system", "content": "s"}, *turns]},
    )
    done = check(tmp_path, train, "--model", str(copy), "--no-audit")
    assert done.returncode == 1
    assert "row 2: the chat template of the model refuses the turns: No system role" in done.stdout


def test_an_unknown_key_of_the_spec_is_named(tmp_path: Path) -> None:
    train = write(tmp_path / "t.jsonl", {"prompt": "q", "answer": "1"})
    done = check(tmp_path, train, "--set", "data.felds.prompt=q")
    assert done.returncode == 1
    assert "data.felds: unknown key" in done.stderr
