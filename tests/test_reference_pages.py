"""The reference: every public name once, with an example that runs, and docstrings that come out as they are meant."""

import doctest
import importlib
import inspect
from collections import Counter
from pathlib import Path

import pytest
import yaml
from docutils.core import publish_string

import vilib
from vilib import docstrings, reference_pages

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "reference").glob("*.md"))
PACKAGES = ("vilib", "vilib.explorables", "vilib.explorables.gallery")
#: Full name -> the example that its page adds, or nothing; names and what signatures call by a short name.
EXAMPLES = {name: text for page in PAGES for name, text in reference_pages.examples_of(page.read_text(encoding="utf-8"))}
PUBLIC = [name for name in EXAMPLES if name.rpartition(".")[0] in PACKAGES]


def public(package: str) -> list[str]:
    return [f"{package}.{name}" for name in importlib.import_module(package).__all__]


def test_every_public_name_stands_on_one_page_once():
    listed = Counter(name for page in PAGES for name in reference_pages.names_of(page.read_text(encoding="utf-8")))
    assert [name for name, count in listed.items() if count > 1] == []
    assert set(PUBLIC) == {name for package in PACKAGES for name in public(package)}


def test_every_page_is_in_the_table_of_contents_and_on_the_first_page():
    appendix = yaml.safe_load((ROOT / "_toc.yml").read_text())["parts"][-1]["chapters"]
    reference = next(entry for entry in appendix if entry["file"] == "reference/index")
    files = [entry["file"] for entry in reference["sections"]]
    assert sorted(files) == [f"reference/{page.stem}" for page in PAGES if page.stem != "index"]
    index = (ROOT / "reference" / "index.md").read_text(encoding="utf-8")
    assert [line.split()[1] for line in index.splitlines() if line.startswith("```{reference-table}")] == files


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_has_an_example(name):
    thing = reference_pages._thing(name)
    own = inspect.getdoc(thing) if inspect.isclass(thing) or inspect.isfunction(thing) else ""
    assert ">>>" in own or ">>>" in EXAMPLES[name]


@pytest.mark.parametrize("name", [name for name, text in EXAMPLES.items() if text])
def test_the_examples_of_the_pages_run(name, monkeypatch):
    """Those of docstrings are run by pytest itself."""
    package = name.rpartition(".")[0]
    if package.endswith("gallery"):
        monkeypatch.setenv("VILIB_RECORD", "1")                        # as in a book: no frame is computed yet
    else:
        monkeypatch.delenv("VILIB_RECORD", raising=False)
    begin: dict[str, object] = {}
    exec(f"import torch\nfrom {package} import *", begin)
    example = doctest.DocTestParser().get_doctest(EXAMPLES[name] + "\n", begin, name, None, 0)
    assert example.examples
    said: list[str] = []
    ran = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example, out=said.append)
    assert ran.failed == 0, "".join(said)


def test_an_example_that_is_wrong_would_be_found():
    wrong = reference_pages.examples_of("```{reference}\nnormal\n    >>> 1 + 1\n    3\n```\n")[0][1]
    example = doctest.DocTestParser().get_doctest(wrong + "\n", {}, "normal", None, 0)
    assert doctest.DocTestRunner().run(example, out=lambda text: None).failed == 1


def dress(text: str, parameters: tuple[str, ...] = (), **known: str) -> str:
    return "\n".join(docstrings.dressed(text.split("\n"), parameters, known)).strip()


@pytest.mark.parametrize(("written", "set_as"), [
    ("z (S, *R, D) and *other* things", r"z (S, \*R, D) and *other* things"),
    ("log |det J|, a_ and a_b", r"log \|det J\|, a\_ and a_b"),
    ("(*R, P); *given* z, (S, *R)", r"(\*R, P); *given* z, (S, \*R)"),
    ("It is ``*R`` as it is.", "It is ``*R`` as it is."),
    ("Zero.  (eq:stl; Roeder et al. 2017)", "Zero.  [equation :eq:`eq:stl`; Roeder et al. 2017]"),
    ("(eq:pathwise, eq:elbo)", "[equations :eq:`eq:pathwise`, :eq:`eq:elbo`]"),
    ("A `Definition`, or `None`.", "A :py:obj:`~p.Definition`, or ``None``."),
    (":func:`iwae` and :meth:`transform`", ":func:`~p.iwae` and :meth:`transform`"),
    (":func:`vilib.iwae.iwae`, :meth:`vilib.fit.Fit.q_at`", ":func:`~p.iwae`, :meth:`~vilib.fit.Fit.q_at`"),
    ("A MeanFieldGaussian.", r"A \ :py:obj:`~p.MeanFieldGaussian`\ ."),
    ("By hand:\n\n    a = b*c  (eq:elbo)", "By hand:\n\n.. parsed-literal::\n\n    a = b\\*c  [equation :eq:`eq:elbo`]"),
])
def test_the_house_style_becomes_restructuredtext(written, set_as):
    assert dress(written, Definition="p.Definition", iwae="p.iwae", MeanFieldGaussian="p.MeanFieldGaussian") == set_as


def test_parameters_results_and_errors_become_fields_before_the_example():
    written = ("Climb.\n\nf: z (S, *R, D) -> (S, *R).  mu, omega: (*R, D); see q.\nReturns (*R).\n\n"
               "Raises ShapeError (S = 1).  Needs luck.\n\n>>> 1\n1")
    assert dress(written, ("f", "mu", "omega")).split("\n") == [
        "Climb.", "", "Needs luck.", "", r":param f: z (S, \*R, D) -> (S, \*R).", r":param mu,omega: (\*R, D); see q.",
        r":returns: (\*R).", ":raises: ShapeError (S = 1).", "", ">>> 1", "1",
    ]


def test_a_letter_with_a_full_stop_begins_no_list():
    """As in "dim: D.", which reStructuredText would read as the fourth item of a list."""
    text = "\n".join(docstrings.dressed(["A sentence.", "", "dim: D.  x: (N, D), K. in all."], ["dim", "x"], {}))
    seen = publish_string(text, writer_name="html5", settings_overrides={"report_level": 5}).decode()
    assert "<ol" not in seen and "<p>D.</p>" in seen and "<p>(N, D), K. in all.</p>" in seen


def test_what_is_no_parameter_stays_in_the_text():
    assert dress("Its gain: where q is right, the gradient is zero.", ("q",)) == "Its gain: where q is right, the gradient is zero."


def test_underlined_sections_become_fields_too():
    written = "Run.\n\nParameters\n----------\nname : the name,\n    in full.\n\nRaises\n------\nKeyError : none."
    assert dress(written).split("\n") == ["Run.", "", ":param name: the name, in full.", ":raises: KeyError: none."]


def test_signatures_are_as_they_are_written():
    """The alias and not what it is short for; a function as a default by its name; no ``self``."""
    signature = str(reference_pages._signature(vilib.fit))
    assert "log_joint: 'LogJoint'" in signature and "noise: 'Noise' = normal" in signature
    assert "self" not in str(reference_pages._signature(vilib.MeanFieldGaussian.transform))
    assert list(reference_pages._signature(vilib.MeanFieldGaussian).parameters) == ["mu", "omega"]
    assert reference_pages._signature(vilib.ShapeError) is None


def test_a_class_shows_its_own_methods_and_those_of_a_private_base():
    shown = reference_pages._members(vilib.MeanFieldGaussian)
    assert {"transform", "entropy", "log_prob", "mean"} <= set(shown) and not any(name.startswith("_") for name in shown)
    assert "term" not in reference_pages._members(vilib.quadratic_cost)                   # said once, at Cost
    assert "parameters" not in reference_pages._members(vilib.VAE)                        # torch's own


@pytest.mark.parametrize(("code", "names"), [
    ("coin = coin_toss(6, 4)", {"coin"}), ("a, b = 1, 2", {"a", "b"}), ("def fit(x):\n    return x", {"fit"}),
    ("for name in names:", {"name"}), ("fit(pathwise, x == 1)", set()), ("print(coin)", set()),
])
def test_a_name_that_a_page_gives_is_not_ours(code, names):
    found = reference_pages._GIVEN.findall(code)
    assert {name for each in found for name in each.split(", ")} == names
