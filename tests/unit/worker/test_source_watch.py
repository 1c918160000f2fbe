"""Which files of programs are watched, and when a change counts."""

import os
from pathlib import Path

from dspymq.worker.executor import sources
from dspymq.worker.supervisor.source_watch import Snapshot, SourceWatch, snapshot, target_directories

ONE: Snapshot = {"a.py": (1, 10, 7)}
TWO: Snapshot = {"a.py": (2, 10, 7)}
THREE: Snapshot = {"a.py": (3, 10, 7)}


def test_a_change_is_reported_once_when_it_has_come_to_rest() -> None:
    watch = SourceWatch()
    reports = [watch.changed(one) for one in (ONE, ONE, TWO, THREE, THREE, THREE)]
    assert reports == [[], [], [], [], ["a.py"], []]


def test_what_is_undone_before_it_came_to_rest_is_no_change() -> None:
    watch = SourceWatch()
    assert [watch.changed(one) for one in (ONE, TWO, ONE, ONE)] == [[], [], [], []]


def test_files_that_come_and_go_are_changes() -> None:
    watch = SourceWatch()
    both = ONE | {"b.py": (1, 1, 8)}
    assert [watch.changed(one) for one in (ONE, both, both, ONE, ONE)] == [[], [], ["b.py"], [], ["b.py"]]


def test_a_directory_that_is_watched_from_now_on_is_no_change_and_hides_none() -> None:
    watch = SourceWatch()
    watch.changed(ONE)
    more = {"lib/c.py": (5, 5, 9)}
    watch.widen(more)
    assert watch.changed(ONE | more) == []
    assert watch.changed(TWO | more) == []
    assert watch.changed(TWO | more) == ["a.py"]


def test_a_snapshot_sees_size_time_and_file(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    (tmp_path / "notes.txt").write_text("not a program")
    first = snapshot([str(tmp_path), str(tmp_path / "gone")])
    assert list(first) == [str(file)]
    new = tmp_path / "new"
    new.write_text("x = 2\n")
    os.utime(new, ns=(first[str(file)][0],) * 2)
    new.replace(file)
    assert snapshot([str(tmp_path)]) != first, "another file of the same size and time"


def test_where_modules_would_be_before_they_can_be_imported(tmp_path: Path) -> None:
    (tmp_path / "app" / "programs").mkdir(parents=True)
    found = target_directories(["app.programs.qa:x", "other"], [str(tmp_path)])
    assert found == {str(tmp_path), str(tmp_path / "app"), str(tmp_path / "app" / "programs")}


def test_directories_of_a_package_and_of_what_lies_beside_it() -> None:
    found = sources.directories(["dspymq.worker.executor.sources"], [])
    assert str(Path(sources.__file__).parent) in found
    here = str(Path(__file__).parent)
    assert here not in found
