"""Every item of the lectures has a section that teaches it and a test that checks it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vilib import coverage

ROOT = Path(__file__).parents[1]
ITEMS = [number for lecture in coverage.items(ROOT).values() for number in lecture]
SECTIONS, TESTS = coverage.sections(ROOT), coverage.tests(ROOT)
#: Not taught yet: the tour of systems.
LATER = {"2.17"}
PAGES = {
    file["file"] for part in yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"] for file in part["chapters"]
}


def test_five_lectures_are_listed():
    assert [title[:9] for title in coverage.items(ROOT)] == [f"Lecture {n}" for n in range(5)]
    assert len(ITEMS) == len(set(ITEMS)) == 6 + 9 + 17 + 9 + 6


@pytest.mark.parametrize("number", [n for n in ITEMS if n not in LATER])
def test_an_item_has_a_section_and_a_test(number):
    assert any(section.page in PAGES for section in SECTIONS.get(number, ())), f"no section of the book covers {number}"
    assert TESTS.get(number), f"no test is marked with covers({number!r})"


def test_nothing_covers_what_is_not_listed():
    assert set(SECTIONS) <= set(ITEMS)
    assert set(TESTS) <= set(ITEMS)


def test_a_comment_stands_under_a_heading_and_becomes_a_target(tmp_path):
    (tmp_path / "chapters").mkdir()
    text = "# A\n\n## First $x$\n% covers: 0.1 0.2\n\nOne.\n\n```text\n## not a heading\n```\n\n% covers: 0.3\n\nTwo.\n"
    (tmp_path / "chapters" / "a.md").write_text(text)
    found = coverage.sections(tmp_path)
    assert {number: [s.title for s in each] for number, each in found.items()} == {
        "0.1": ["First $x$"], "0.2": ["First $x$"], "0.3": ["First $x$"],
    }
    source = [text]
    coverage._add_labels(None, "chapters/a", source)
    for each in found.values():
        assert all(f"\n({section.label})=\n" in source[0] for section in each)
    assert "% covers" not in source[0]


def test_marks_are_read_from_functions_and_classes(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_a.py").write_text(
        "import pytest\n@pytest.mark.covers('0.1', '0.2')\ndef test_one(): ...\n@pytest.mark.covers('0.2')\nclass TestTwo: ...\n"
    )
    assert coverage.tests(tmp_path) == {
        "0.1": ["tests/test_a.py::test_one"], "0.2": ["tests/test_a.py::test_one", "tests/test_a.py::TestTwo"],
    }
