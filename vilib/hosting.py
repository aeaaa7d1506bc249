"""What a host, a search engine and a messenger ask of the built site: ``404.html``, ``robots.txt``, ``sitemap.xml``, a preview.

The last two name pages by their full address, so they are there only where ``vilib.addresses.site`` knows one. None of it
makes a page load anything.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urljoin
from xml.etree import ElementTree

from docutils import nodes

#: The picture of the preview: in the sources, and in the site.
PICTURE, PICTURE_IN_SITE = Path("docs") / "fit-race.png", "preview.png"
PICTURE_SAYS = "Two estimators race to a posterior, with their ELBO and the variance of their gradients"


def description(doctree: nodes.document, longest: int = 200) -> str:
    """What a page says of itself in a line: the sentences under "The question", else those that it begins with.

    Sentences with a formula of more than a letter are left out, and so is the line on what a reader should know before.
    """
    asked = [s for s in doctree.findall(nodes.section) if s[0].astext() == "The question"]
    paragraphs = {id(p): p for s in [*asked, doctree] for p in s.findall(nodes.paragraph) if isinstance(p.parent, nodes.section)}
    text = ""
    for paragraph in paragraphs.values():                                           # each once, the question first
        words = "".join(_in_words(node) for node in paragraph.children)
        for sentence in re.split(r"(?<=[.?!]) ", " ".join(words.split())):
            if "\0" not in sentence and not sentence.startswith(("You need:", "Reading time")):
                if text and len(text) + len(sentence) >= longest:
                    return text
                text = f"{text} {sentence}".strip()
        if len(text) > longest // 3:
            break
    return text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0].rstrip(",;:") + "…"


def _in_words(node: nodes.Node) -> str:
    """The text of a piece of a paragraph, with a mark for each formula that is more than a name."""
    if isinstance(node, nodes.math):
        return node.astext() if node.astext().isalnum() else "\0"
    return "".join(map(_in_words, node.children)) if node.children else node.astext()


def meta_tags(*, title: str, text: str, book: str, address: str = "", picture: str = "", size: tuple[int, int] = (0, 0)) -> str:
    """The ``<meta>`` tags of a page's preview (Open Graph, Twitter), and its description.

    address, picture: full addresses of the page and of the picture; without the first there is no more than the description.
    """
    tags = [("name", "description", text)]
    if address:
        tags += [
            ("property", "og:type", "article"), ("property", "og:site_name", book), ("property", "og:title", title),
            ("property", "og:description", text), ("property", "og:url", address),
            ("name", "twitter:card", "summary_large_image" if picture else "summary"),
        ]
        if picture:
            tags += [
                ("property", "og:image", picture), ("property", "og:image:alt", PICTURE_SAYS),
                ("property", "og:image:width", str(size[0])), ("property", "og:image:height", str(size[1])),
            ]
    return "".join(f'\n    <meta {kind}="{name}" content="{html.escape(value)}" />' for kind, name, value in tags if value)


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a PNG picture, in pixels."""
    return struct.unpack(">II", path.read_bytes()[16:24])


def sitemap(addresses: Iterable[str]) -> bytes:
    """``sitemap.xml`` of some pages, by their full addresses."""
    root = ElementTree.Element("urlset", xmlns="http://www.sitemaps.org/schemas/sitemap/0.9")
    for address in addresses:
        ElementTree.SubElement(ElementTree.SubElement(root, "url"), "loc").text = address
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def robots(site: str) -> str:
    """``robots.txt``: all may be read. Where a search engine finds the pages, if the site's address is known.

    >>> print(robots("https://owner.github.io/book/").splitlines()[-1])
    Sitemap: https://owner.github.io/book/sitemap.xml
    """
    return "User-agent: *\nAllow: /\n" + (f"\nSitemap: {site}sitemap.xml\n" if site else "")


def not_found(book: str, pages: Sequence[tuple[str, str]], site: str = "") -> str:
    """``404.html``: one file, of which nothing else is loaded.

    A host shows it at the address that was asked for, in a folder at any depth, where the site's own style sheet would not
    be found. The links count from the site's address where that is known and is where the page is shown; else from the
    nearest folder above that holds the book, which a script looks for; and opened as a file, from its own folder.

    pages: (file, title) of each page of the book, in order.
    """
    listing = "\n".join(f'    <li><a href="{html.escape(file)}">{html.escape(title)}</a></li>' for file, title in pages)
    return NOT_FOUND % {"book": html.escape(book), "site": html.escape(site), "known": json.dumps(site), "listing": listing}


NOT_FOUND = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<meta name="robots" content="noindex" />
<meta name="color-scheme" content="light dark" />
<base href="%(site)s" />
<title>Page not found — %(book)s</title>
<link rel="icon" href="data:," />
<style>
  :root { --ink: #1f2329; --soft: #59616b; --link: #17548f; --ground: #fff; --line: #d5dae0; }
  @media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #a3acb8; --link: #8ec2f5; --ground: #14181e; --line: #3a424d; } }
  body { max-width: 38rem; margin: 12vh auto 4rem; padding: 0 1.25rem; color: var(--ink); background: var(--ground); font: 1.0625rem/1.6 system-ui, sans-serif; }
  h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .5rem; }
  p { color: var(--soft); }
  a { color: var(--link); }
  form { display: flex; gap: .5rem; margin: 1.5rem 0 2rem; }
  input { flex: 1; min-width: 0; }
  input, button { font: inherit; color: inherit; background: none; padding: .4rem .7rem; border: 1px solid var(--soft); border-radius: .35rem; }
  ul { padding-left: 1.2rem; }
  li { margin: .25rem 0; }
</style>
</head>
<body>
<main>
  <h1>There is no such page</h1>
  <p>The address may have a slip, or the page has moved. Search for it, or start from one of these.</p>
  <form action="search.html" role="search">
    <input type="search" name="q" aria-label="Search %(book)s" />
    <button>Search</button>
  </form>
  <nav aria-label="Pages">
  <ul>
%(listing)s
  </ul>
  </nav>
</main>
<script>
(async () => {
  const base = document.querySelector("base"), known = %(known)s, here = location.href.split(/[?#]/)[0];
  const asked = decodeURIComponent(location.pathname).split("/").pop().replace(/\\.\\w+$/, "");
  if (asked !== "404") document.querySelector("input").value = asked.replace(/[^\\p{L}\\d]+/gu, " ").trim();
  if (known && here.startsWith(known)) return;
  let folder = new URL(".", here).href;
  base.href = folder;
  if (location.protocol === "file:") return;
  for (; ; folder = new URL("..", folder).href) {
    const there = await fetch(folder + "searchindex.js", { method: "HEAD" }).catch(() => null);
    if (there?.ok) { base.href = folder; return; }
    if (new URL(folder).pathname === "/") return;
  }
})();
</script>
</body>
</html>
"""


# -- in the build ------------------------------------------------------------------------------------------------------


def preview(app, pagename, templatename, context, doctree) -> None:
    """Put a page's tags into its head (``html-page-context``)."""
    if doctree is None:
        return
    site, picture = app.config.vilib_site, Path(app.srcdir) / PICTURE
    shown = bool(site) and picture.exists()
    context["metatags"] += meta_tags(
        title=app.env.titles[pagename].astext(), text=description(doctree), book=app.config.html_title or app.config.project,
        address=urljoin(site, f"{pagename}.html") if site else "",
        picture=urljoin(site, PICTURE_IN_SITE) if shown else "", size=png_size(picture) if shown else (0, 0),
    )


def write_files(app) -> None:
    """Write what lies beside the pages into the built site."""
    out, site, env = Path(app.outdir), app.config.vilib_site, app.env
    pages = [env.config.root_doc, *_below(env, env.config.root_doc)]
    book = app.config.html_title or app.config.project
    listed = [(f"{page}.html", env.titles[page].astext()) for page in pages]
    (out / "404.html").write_text(not_found(book, listed, site), encoding="utf8")
    (out / "robots.txt").write_text(robots(site))
    for name in ("sitemap.xml", PICTURE_IN_SITE):
        (out / name).unlink(missing_ok=True)                                        # of a build that knew an address
    if site:
        (out / "sitemap.xml").write_bytes(sitemap(urljoin(site, file) for file, _ in listed))
        if (Path(app.srcdir) / PICTURE).exists():
            shutil.copy(Path(app.srcdir) / PICTURE, out / PICTURE_IN_SITE)


def _below(env, page: str) -> list[str]:
    """The pages that follow a page in the table of contents, in reading order."""
    found = []
    for each in env.toctree_includes.get(page, ()):
        if each not in found:
            found += [each, *_below(env, each)]
    return found
