"""The laws that every chapter keeps.  Whatever stands in chapters/ as a notebook is held to them, a new one too."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import pytest
from chapters import FOLDER, LESSONS, covered, labels, links, text_of

from vilib.explorables import gallery

PAGES = {page: page.read_text("utf-8") for page in sorted([FOLDER.parent / "intro.md", *FOLDER.glob("*.md")])}
FRAME = ["The question", "Move it", "What can go wrong", "Check yourself", "Exercises", "What to remember", "References"]


@dataclass(frozen=True)
class Known:
    """What a chapter holds: items of the lectures, exercises, links to its explorable, equations that others name."""

    items: str
    exercises: int
    explorable: str
    links: int
    equations: str = ""


#: A chapter that is not listed keeps the other laws.
KNOWN = {
    "why-approximate": Known("0.1 1.1 2.1 3.1 3.2 3.3 3.4", 5, "posterior-three-ways", 4,
        "bayes evidence coin-evidence coin-posterior mixture-evidence laplace metropolis mean-field-gaussian vi"),
    "kl": Known("3.5 3.6 1.9 4.1", 6, "kl-directions", 10,
        "kl kl-gaussian kl-monte-carlo kl-tangent kl-term-variance kl-forward kl-pythagoras"),
    "elbo": Known("0.2 1.2 2.2 3.8 4.1 4.2", 6, "elbo-bars", 6, "elbo"),
    "mean-field": Known("0.1 1.5 2.14", 6, "mean-field-ellipse", 4),
    "score-function": Known("0.3 0.4 2.3 2.4 2.5 2.6 2.7 2.8", 6, "gradient-variance", 13,
        "log-derivative score-zero-mean score-function baseline robbins-monro logistic-elbo score-variance "
        "noise-variance"),
    "variance-reduction": Known("2.9 2.10", 6, "control-variate", 12),
    "pathwise": Known("0.5 0.6 1.7 2.11 2.12 2.13 3.7 4.3", 7, "fit-race", 7,
        "reparameterisation pathwise analytic-entropy total-derivative stl full-rank gaussian-by-hand pw-gamma pw-tanh "
        "pw-encoder"),
    "change-of-variables": Known("1.3 1.4", 6, "jacobian", 6),
    "advi": Known("1.3 1.5 1.6 1.7 2.16", 5, "advi-lab", 11,
        "advi-map advi-joint advi-family advi-elbo advi-objective advi-slope advi-gradient advi-adagrad advi-rmsprop "
        "advi-adam advi-tempered advi-optimum"),
    "amortization": Known("2.14 2.15", 6, "amortization-gap", 4),
    "vae": Known("4.2 4.3 4.4 4.5 4.6 2.15", 5, "latent-map", 8),
}


def section(text: str, title: str) -> str:
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def folded(text: str, title: str) -> int:
    """How many boxes with this title there are; each must be folded."""
    boxes = re.findall(rf"^```{{admonition}} {title}\n(.*)$", text, re.M)
    assert set(boxes) <= {":class: dropdown"}
    return len(boxes)


def as_type_of(now, value: str):
    if isinstance(now, tuple):
        return tuple(value.split(","))
    return value if isinstance(now, str) else type(now)(float(value))


# ---- the frame -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chapter", LESSONS)
def test_its_head_says_what_you_need_and_how_long_it_takes(chapter):
    head, _ = text_of(chapter).split("\n## The question\n")
    assert "You need" in head and re.search(r"Reading.* (\d+) minutes", head)


@pytest.mark.parametrize("chapter", LESSONS)
def test_it_has_every_part_in_its_place(chapter):
    assert [title for title in re.findall(r"^## (.*)$", text_of(chapter), re.M) if title in FRAME] == FRAME


@pytest.mark.parametrize("chapter", LESSONS)
def test_its_questions_and_prompts_have_folded_answers(chapter):
    questions, prompts = (section(text_of(chapter), title) for title in ("Check yourself", "Move it"))
    assert folded(questions, "Answer") == len(re.findall(r"^\*\*(?:Question )?\w\.\*\* ", questions, re.M)) >= 3
    assert folded(prompts, "Explain") >= 4


@pytest.mark.parametrize("chapter", LESSONS)
def test_it_ends_on_a_few_lines_to_remember(chapter):
    assert 3 <= len(re.findall(r"^- ", section(text_of(chapter), "What to remember"), re.M)) <= 5


@pytest.mark.parametrize("chapter", LESSONS)
def test_every_exercise_has_a_folded_solution(chapter):
    text = text_of(chapter)
    exercises = labels(text, "ex-")
    assert sorted(exercises) == sorted(labels(text, "sol-")) and len(set(exercises)) == len(exercises) >= 5
    solved = re.findall(r"^```{solution(?:-start)?} ex-(\S+)\n:label: sol-(\S+)\n:class: dropdown$", text, re.M)
    assert [of for of, _ in solved] == [own for _, own in solved] == exercises
    assert len(re.findall(r"^```{exercise(?:-start)?} ", text, re.M)) == len(exercises)
    for kind in ("exercise", "solution"):
        assert text.count(f"```{{{kind}-start}}") == text.count(f"```{{{kind}-end}}")


# ---- labels and links ------------------------------------------------------------------------------------------------


def test_every_equation_of_the_book_has_its_own_label():
    every = Counter(label for text in PAGES.values() for label in labels(text))
    assert every and max(every.values()) == 1, [label for label, count in every.items() if count > 1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_set_it_link_asks_for_what_the_explorable_offers(page):
    shown = {}
    for address, settings in links(PAGES[page]):
        explorable = shown.setdefault(address, getattr(gallery, address.replace("-", "_"))())
        for name, value in settings.items():
            wanted = as_type_of(getattr(explorable, name), value)
            setattr(explorable, name, wanted)                                                  # raises if not offered
            assert getattr(explorable, name) == wanted


@pytest.mark.parametrize("chapter", LESSONS)
def test_it_teaches_something_and_links_to_an_explorable(chapter):
    assert covered(text_of(chapter)) and len(links(text_of(chapter))) >= 4


@pytest.mark.parametrize("chapter", KNOWN)
def test_it_holds_what_it_is_known_for(chapter):
    known, text = KNOWN[chapter], text_of(chapter)
    assert set(known.items.split()) <= covered(text)
    assert len(labels(text, "ex-")) == known.exercises
    assert Counter(address for address, _ in links(text)) == {known.explorable: known.links}
    assert set(known.equations.split()) <= set(labels(text))
