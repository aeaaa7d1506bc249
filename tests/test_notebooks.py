"""A built page as a clean notebook: `vilib.notebooks`, on pieces of HTML as Sphinx writes them."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import re
import tomllib
from pathlib import Path

import nbformat
import pytest

from vilib.addresses import parse
from vilib.notebooks import NEEDED, gather, notebook, setup_code

ROOT = Path(__file__).parents[1]
HUB = parse("https://github.com/owner/book")


def code(source: str, *tags: str):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)} if tags else {})


def cell(caption: str = "") -> str:
    figure = f'<figure><img src="x.svg"><figcaption>{caption}</figcaption></figure>' if caption else "<pre>an output</pre>"
    return (
        '<div class="cell docutils container"><div class="cell_input"><div class="highlight-ipython3"><pre>shown</pre></div></div>'
        f'<div class="cell_output">{figure}</div></div>'
    )


def made(body: str, *cells, **options):
    book = notebook(f"<section id='t'><h1>A title</h1><p>Lead.</p>{body}</section>", cells, page="chapters/here", **options)
    nbformat.validate(book)
    return book


def markdown(body: str, *cells, **options) -> str:
    """All its Markdown after the title's cell."""
    return "\n\n".join(c.source for c in made(f"<h2>S</h2>{body}", *cells, **options).cells[1:] if c.cell_type == "markdown")[5:].strip()


def test_the_cells_are_those_of_the_chapter_without_tags_or_outputs():
    book = made(f"{cell()}<p>Between.</p>{cell()}", code("x = 1", "hide-input"), code("print(x)", "remove-output"))
    assert [c.cell_type for c in book.cells] == ["markdown", "code", "code", "markdown", "code"]
    assert [c.source for c in book.cells[2:]] == ["x = 1", "Between.", "print(x)"]
    for each in book.cells:
        assert "tags" not in each.metadata
        assert not each.get("outputs") and each.get("execution_count") is None
    assert book.cells[2].metadata["jupyter"] == {"source_hidden": True}, "folded on the page, folded here"
    assert book.cells[4].metadata == {}


def test_a_cell_that_the_page_does_not_show_is_still_run():
    book = made(cell() + cell(), code("a = 1"), code("b = 2", "remove-cell"), code("c = a + b"))
    assert [c.source for c in book.cells if c.cell_type == "code"][1:] == ["a = 1", "b = 2", "c = a + b"]


@pytest.mark.parametrize("shown", [1, 3])
def test_a_page_and_cells_that_do_not_belong_together_are_refused(shown):
    """One cell fewer would be run out of its place, one more is a cell that nobody has."""
    with pytest.raises(ValueError, match="chapters/here: the page does not show the 2 code cells that it should"):
        made(cell() * shown, code("a"), code("b"))


def test_the_same_page_gives_the_same_file():
    assert made(cell(), code("x")) == made(cell(), code("x"))


def test_formulas_keep_their_number_and_lose_what_sphinx_put_around_them():
    text = markdown(
        '<p>Let <span class="math notranslate">\\(a &lt; b_1\\)</span>.</p>'
        '<div class="math notranslate" id="e"><span class="eqno">(3.4)<a class="headerlink" href="#e">#</a></span>'
        "\\[\\begin{split}\\begin{aligned}\na &amp;= b \\\\\n&amp;= c\n\\end{aligned}\\end{split}\\]</div>"
    )
    assert text == "Let $a < b_1$.\n\n$$\n\\begin{aligned}\na &= b \\\\\n&= c\n\\end{aligned} \\tag{3.4}\n$$"


@pytest.mark.parametrize("formula", ["a = b \\\\\nc = d", "\\begin{aligned}a\\\\b\\end{aligned} \\\\ c"])
def test_lines_of_a_formula_stay_in_an_environment(formula):
    """Outside of one TeX would run them together."""
    assert "\\begin{split}" + formula in markdown(f'<div class="math">\\[\\begin{{split}}{formula}\\end{{split}}\\]</div>')


def test_a_bar_in_a_table_is_no_border():
    text = markdown(
        '<table><thead><tr><th><p>f</p></th></tr></thead><tbody><tr><td><p><span class="math">\\(p(x|z)\\,\\|\\,q\\)</span> a|b</p></td>'
        "</tr></tbody></table>"
    )
    row = text.splitlines()[-1]
    assert re.sub(r"\\\|", "", row).count("|") == 2
    assert r"$p(x\vert z)\,\Vert \,q$" in row


def test_an_admonition_is_a_quotation_with_its_formulas_on_one_line():
    text = markdown('<div class="note admonition"><p class="admonition-title">Mind</p><p>So</p><div class="math">\\[a\n= b\\]</div></div>')
    assert text == "> **Mind**\n>\n> So\n>\n> $$a = b$$"


def test_what_the_page_folds_is_folded():
    folded = '<div class="note dropdown admonition"><p class="admonition-title">Explain</p><p>Since <em>so</em>.</p></div>'
    assert markdown(folded) == "<details>\n<summary><b>Explain</b></summary>\n\nSince *so*.\n\n</details>"


EXERCISE = (
    '<div class="exercise admonition"><p class="admonition-title"><span class="caption-number">Exercise 3.1 </span> (Do)</p>'
    "<section><p>Do it.</p></section></div>"
)
SOLUTION = (
    '<div class="solution dropdown admonition"><p class="admonition-title">Solution to<a class="reference internal" href="#e"> '
    "Exercise 3.1 (Do)</a></p><section><p>So:</p>" + cell() + "<p>Done.</p></section></div>"
)


def test_a_solution_with_code_folds_by_its_heading():
    book = made(EXERCISE + SOLUTION + EXERCISE, code("done = True"))
    heads = [c for c in book.cells if c.source.startswith("####")]
    assert [c.source.splitlines()[0] for c in heads] == [
        "#### Exercise 3.1 (Do)", "#### Solution to Exercise 3.1 (Do)", "#### Exercise 3.1 (Do)",
    ]
    assert [bool(c.metadata.get("jp-MarkdownHeadingCollapsed")) for c in heads] == [False, True, False]
    assert heads[1].source == "#### Solution to Exercise 3.1 (Do)", "what is in the heading's own cell would stay in sight"


@pytest.mark.parametrize(("after", "more"), [("<p>And the chapter goes on.</p>", []), (cell(), [code("more = 1")])])
def test_a_solution_stays_open_where_it_would_hide_the_chapter(after, more):
    book = made(SOLUTION + after, code("done = True"), *more)
    assert not any(c.metadata.get("jp-MarkdownHeadingCollapsed") for c in book.cells)
    assert "\x02" not in str(book)


def test_a_figure_keeps_its_caption_after_its_cell():
    book = made(cell('<p><span class="caption-number">Fig. 3.1 </span><span>A <em>hill</em>.</span><a class="headerlink" href="#f">#</a></p>'), code("draw()"))
    assert [c.source for c in book.cells[2:]] == ["draw()", "**Fig. 3.1** A *hill*."]


def test_quoted_code_is_fenced_and_not_cut_at_its_comments():
    text = markdown('<div class="highlight-python notranslate"><div class="highlight"><pre><span></span># not a heading\nx = 1\n</pre></div></div>')
    assert text == "```python\n# not a heading\nx = 1\n```"


LINKS = (
    '<p><a class="reference internal" href="elbo.html#terms">terms</a>, <a class="reference internal" href="#equation-e">(3.1)</a>, '
    '<a href="#race?step=3">set it</a>, <a class="reference internal" href="#there">below</a>, '
    '<a class="reference external" href="https://arxiv.org/abs/1">paper</a></p>'
)
TARGETS = '<section id="a"><span id="there"></span><h3>Which way?</h3></section>'


def test_links_within_the_book_lead_to_the_published_page():
    assert markdown(LINKS + TARGETS, site="https://o.github.io/b/").splitlines()[0] == (
        "[terms](https://o.github.io/b/chapters/elbo.html#terms), [(3.1)](https://o.github.io/b/chapters/here.html#equation-e), "
        "[set it](https://o.github.io/b/chapters/here.html#race?step=3), [below](#Which-way?), [paper](https://arxiv.org/abs/1)"
    )


def test_without_a_published_page_they_are_words():
    assert markdown(LINKS + TARGETS).splitlines()[0] == "terms, (3.1), set it, [below](#Which-way?), [paper](https://arxiv.org/abs/1)"


def test_characters_that_markdown_would_take_for_marks():
    assert markdown("<p>2 * 3, a_b_c, `x`, $5, &lt;b&gt; and 1 &lt; 2</p>") == r"2 \* 3, a\_b\_c, \`x\`, \$5, &lt;b> and 1 < 2"


# -- the first cell --------------------------------------------------------------------------------------------------------


def run_first_cell(monkeypatch, repository, missing=()):
    """What it asks IPython to do where some packages are missing."""
    asked = []
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else real(name))
    source = re.sub(r"^( *)%(.*)$", r"\1magic(\2)", setup_code(repository), flags=re.M)
    source = re.sub(r"magic\((.*)\)", lambda m: f"magic({m[1]!r})", source)
    exec(compile(ast.parse(source), "cell", "exec"), {"magic": asked.append, "__builtins__": builtins})
    return asked


def test_the_first_cell_does_nothing_where_all_is_there(monkeypatch):
    assert made(cell(), code("x")).cells[1].source == setup_code(None)
    assert run_first_cell(monkeypatch, HUB) == run_first_cell(monkeypatch, None) == []


@pytest.mark.parametrize("missing", NEEDED)
def test_the_first_cell_installs_from_the_repository_what_is_missing(monkeypatch, missing):
    asked = run_first_cell(monkeypatch, HUB, [missing])
    assert asked == ['pip install --quiet "vilib[notebooks] @ git+https://github.com/owner/book"']


def test_where_no_repository_is_known_it_says_what_to_do(monkeypatch):
    with pytest.raises(ModuleNotFoundError, match=r"vilib is missing. In the folder of the book say: pip install '\.\[notebooks\]'"):
        run_first_cell(monkeypatch, None, ["vilib"])


def test_what_it_asks_for_is_what_the_extra_installs():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    parts = re.fullmatch(r"vilib\[(.*)\]", extras["notebooks"][0])[1].split(",")
    installed = {re.match(r"[\w-]+", line)[0].replace("-", "_") for part in parts for line in extras[part]}
    assert set(NEEDED) - {"vilib"} <= installed


# -- the folder ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def built(tmp_path) -> Path:
    sources = tmp_path / "html" / "_sources"
    (sources / "chapters" / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ("intro", "chapters/elbo", "chapters/.ipynb_checkpoints/elbo-checkpoint"):
        nbformat.write(made(cell(), code("x = 1")), sources / f"{name}.ipynb")
    return tmp_path / "html"


def test_the_folder_holds_the_notebooks_and_what_they_need(built, tmp_path):
    target = tmp_path / "out"
    (target / ".git").mkdir(parents=True)
    (target / "chapters").mkdir()
    (target / "chapters" / "gone.ipynb").touch()
    assert gather(built, target, ROOT) == [Path("chapters/elbo.ipynb"), Path("intro.ipynb")]
    assert {p.name for p in target.iterdir()} == {
        ".git", "README.md", "chapters", "intro.ipynb", "vilib", "binder", "pyproject.toml", "LICENSE", "LICENSE-text",
    }
    assert [p.name for p in (target / "chapters").iterdir()] == ["elbo.ipynb"], "what is no chapter any more goes"
    assert "- [A title](chapters/elbo.ipynb)" in (target / "README.md").read_text()
    assert not list(target.rglob("__pycache__"))


def test_the_folder_lists_its_notebooks_as_the_book_does(built, tmp_path):
    for name, title in {"intro": "Live", "chapters/elbo": "3. A bound", "chapters/advi": "10. Any model", "chapters/kl": "2. Which"}.items():
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(f"# {title}")])
        nbformat.write(notebook, built / "_sources" / f"{name}.ipynb")
    gather(built, tmp_path / "out", ROOT)
    listed = re.findall(r"^- \[(.*?)\]", (tmp_path / "out" / "README.md").read_text(), re.M)
    assert listed == ["Live", "2. Which", "3. A bound", "10. Any model"]


def test_without_a_book_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="no notebook in .*_sources; make book writes them"):
        gather(tmp_path, tmp_path / "out", ROOT)
