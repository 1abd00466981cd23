"""Requests to a running learner, as files in the directory of its job."""

from pathlib import Path

from services.common.steering import Revision, read_revisions, write_revision


def test_revisions_of_the_directory_under_its_former_name_are_kept(tmp_path: Path) -> None:
    write_revision(tmp_path, Revision(1, {"rl.optim.lr": 1e-5}))
    (tmp_path / "requests").rename(tmp_path / "wishes")

    write_revision(tmp_path, Revision(2, {"rl.optim.lr": 1e-6}))

    assert [revision.number for revision in read_revisions(tmp_path, 0)] == [1, 2]
    assert not (tmp_path / "wishes").exists()
