"""What lies beside the pages, and beside the sources, for hosts and for those who cite: `vilib.hosting`, the workflow, the citation."""

from __future__ import annotations

import re
import subprocess
import tomllib
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from docutils.core import publish_doctree

from vilib import addresses
from vilib.hosting import PICTURE, description, meta_tags, not_found, png_size, robots, sitemap

ROOT = Path(__file__).parents[1]


# -- previews ----------------------------------------------------------------------------------------------------------


def page(text: str):
    return publish_doctree(text, settings_overrides={"doctitle_xform": False})


HEAD = "Title\n=====\n\nYou need: a pencil. Reading time: an hour.\n\n"


def test_a_page_is_described_by_its_question():
    asked = HEAD + "Before\n------\n\nSome other text of some length that is not it.\n\nThe question\n------------\n\nWhy? Because :math:`q` is near. And?\n\n- not this\n"
    assert description(page(asked)).startswith("Why? Because q is near. And?")


def test_a_page_without_one_by_its_beginning():
    assert description(page(HEAD + "It begins. And so on.\n")) == "It begins. And so on."


def test_no_formula_and_no_half_of_a_sentence_in_a_description():
    text = HEAD + "The question\n------------\n\nFirst. Then :math:`\\frac12 x` is said. Last.\n"
    assert description(page(text)).startswith("First. Last.")
    long = description(page(HEAD + "The question\n------------\n\n" + "A sentence of ten words that goes on and on. " * 9 + "\n"))
    assert len(long) <= 200 and long.endswith("on.")
    assert description(page(HEAD + "word " * 80 + "\n")).endswith("word…")


def test_tags_are_escaped_and_name_full_addresses_or_nothing():
    tags = meta_tags(title='A "b" & c', text="T", book="B", address="https://o.github.io/b/x.html", picture="https://o.github.io/b/p.png", size=(3, 2))
    assert 'content="A &quot;b&quot; &amp; c"' in tags
    assert meta_tags(title="A", text="T", book="B") == '\n    <meta name="description" content="T" />'
    assert 'content="summary"' in meta_tags(title="A", text="T", book="B", address="https://o.github.io/b/x.html")


def test_the_picture_of_the_preview_is_there_and_large_enough_to_be_shown():
    width, height = png_size(ROOT / PICTURE)
    assert width >= 1200 and height >= 630 and (ROOT / PICTURE).stat().st_size < 1_000_000


def test_the_sitemap_and_robots():
    root = ElementTree.fromstring(sitemap(["https://o.github.io/b/a.html", "https://o.github.io/b/c.html?x=1&y=2"]))
    assert [each.text for each in root.iter("{http://www.sitemaps.org/schemas/sitemap/0.9}loc")] == [
        "https://o.github.io/b/a.html", "https://o.github.io/b/c.html?x=1&y=2",
    ]
    assert "Sitemap" not in robots("") and robots("https://o.github.io/b/").endswith("Sitemap: https://o.github.io/b/sitemap.xml\n")


def test_titles_in_the_page_for_no_page_are_escaped():
    assert "<li><a href=\"a.html\">A &lt; B</a></li>" in not_found("Book", [("a.html", "A < B")])


# -- citation ----------------------------------------------------------------------------------------------------------


def test_the_citation_file_has_what_its_format_requires():
    """Citation File Format 1.2.0: cff-version, message, title and authors; the rest agrees with the package."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["type"] in ("software", "dataset") and isinstance(citation["date-released"], date)
    for authors in (citation["authors"], citation["preferred-citation"]["authors"]):
        assert authors and all(set(author) <= {"name", "family-names", "given-names", "orcid", "affiliation", "website"} for author in authors)
    package = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert str(citation["version"]) == package["version"] and citation["license"] == package["license"]
    assert citation["title"] == yaml.safe_load((ROOT / "_config.yml").read_text())["title"]
    book = citation["preferred-citation"]
    assert book["type"] == "book" and book["title"] == citation["title"] and book["year"] == citation["date-released"].year


# -- the workflow ------------------------------------------------------------------------------------------------------

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def workflow(request) -> dict:
    return yaml.safe_load(request.param.read_text())


def steps(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_commands_that_it_calls_exist(workflow):
    called = {target for step in steps(workflow) for target in re.findall(r"^\s*make (\w+)", step.get("run", ""), re.M)}
    assert {"test", "notebooks"} <= called <= TARGETS


def test_its_actions_are_pinned_by_their_major_version(workflow):
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", each) for each in used)


def test_its_jobs_wait_for_each_other_and_may_do_no_more_than_they_must(workflow):
    jobs = workflow["jobs"]
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in jobs.items():
        assert set(job.get("permissions", {})) <= {"pages", "id-token", "contents"}
        if "permissions" in job:
            assert job["needs"] == "build" and "publish == 'true'" in job["if"], f"{name} may write: only after the tests"


def test_what_it_publishes_is_what_the_links_open(workflow):
    """The site at the address that the pages were built with, the notebooks on the branch that the links name."""
    build = {step.get("run", step.get("uses")): step for step in workflow["jobs"]["build"]["steps"]}
    assert build["make test"]["env"]["VILIB_SITE"] == build["make notebooks"]["env"]["VILIB_SITE"] == "${{ steps.pages.outputs.base_url }}"
    assert build["make test"]["env"]["VILIB_EVERY_NOTEBOOK"]
    assert build["actions/upload-pages-artifact@v3"]["with"]["path"] == "_build/html"
    assert build["actions/upload-artifact@v4"]["with"]["path"] == "_build/notebooks"
    push = next(step["run"] for step in workflow["jobs"]["notebooks"]["steps"] if "run" in step)
    assert f"--initial-branch {addresses.BRANCH}\n" in push and push.rstrip().endswith(addresses.BRANCH)
    assert "cd " not in push and "chmod=+x binder/postBuild" in push


def test_its_scripts_are_whole(workflow):
    """As far as a shell can tell without running them."""
    for step in steps(workflow):
        if "run" in step:
            script = re.sub(r"\$\{\{.*?\}\}", "x", step["run"])
            assert subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True).stderr == ""


def test_make_notebooks_writes_the_folder_that_is_published():
    assert re.search(r"^notebooks: book\n\t.*-m vilib\.notebooks _build/html _build/notebooks$", (ROOT / "Makefile").read_text(), re.M)
