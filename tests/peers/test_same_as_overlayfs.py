"""What a process in a container of ours can notice, beside containerd's overlayfs of the same version."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from testkit.peers.registry import Registry
from testkit.sameness.inside.questions import QUESTIONS
from testkit.sameness.measure import COLUMNS, OURS, Answers, Column, measure
from testkit.sameness.table import COMMAND, DIFFERENCES, DOCUMENT, differing, document, explained

pytestmark = [pytest.mark.peers, pytest.mark.slow, pytest.mark.timeout(900)]
ours = pytest.mark.parametrize("column", OURS, ids=str)


@pytest.fixture(scope="module")
def answers(peers_directory: Path, registry: Registry, pause: str) -> Mapping[Column, Answers]:
    """Measured once for all tests here."""
    return measure(peers_directory / "same", registry, pause)


@ours
def test_files_and_directories_keep_their_inode_numbers(answers: Mapping[Column, Answers], column: Column) -> None:
    assert answers[column]["numbers_of_directories"] == "stay"
    assert answers[column]["numbers_of_files"] == "stay"


@ours
def test_files_are_on_the_device_of_their_directory(answers: Mapping[Column, Answers], column: Column) -> None:
    assert answers[column]["device_of_files"] == "the same"
    assert answers[column]["unique_numbers"] == "no"
    assert answers[column]["mountpoint"] == "no"


@ours
def test_gnu_tar_with_little_memory(answers: Mapping[Column, Answers], column: Column) -> None:
    assert answers[column]["gnu_tar"] == "works"


@ours
def test_programs_that_stay_on_one_filesystem_see_all_of_it(answers: Mapping[Column, Answers], column: Column) -> None:
    names = [name for name in QUESTIONS if name.endswith("_on_one_filesystem")]

    assert len(names) == 6
    assert {name: answers[column][name] for name in names} == dict.fromkeys(names, "sees everything")


@pytest.mark.parametrize("column", COLUMNS, ids=str)
def test_every_question_is_answered(answers: Mapping[Column, Answers], column: Column) -> None:
    assert answers[column].keys() == QUESTIONS.keys()


@ours
def test_every_difference_has_a_reason(answers: Mapping[Column, Answers], column: Column) -> None:
    found = differing(column, answers)

    assert {name: pair for name, pair in found.items() if name not in explained(column)} == {}, "explain or mend these"
    assert explained(column) - found.keys() == set(), "these are equal now"


def test_every_reason_is_of_a_question() -> None:
    assert DIFFERENCES.keys() <= QUESTIONS.keys()


def test_the_document_says_what_was_measured(answers: Mapping[Column, Answers]) -> None:
    assert document(answers) == DOCUMENT.read_text(encoding="utf-8"), f"run {COMMAND}"
