"""One colour, one meaning: the inks of every explorable and of every matplotlib figure.

An *ink* is the name of a thing the book speaks of. It has one hue in light pages and one in dark
pages (both at least 4.5:1 against the page, so they may colour text), and one dash and one marker,
so that nothing rests on colour alone. The hues are darkened and lightened forms of Okabe and Ito's
set, which readers with any common colour blindness can tell apart.

`static/explorable.css` carries the same values as CSS variables; a test holds the two together.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ink:
    """How one thing is drawn: `light` and `dark` hex colours, an SVG `dash`, a matplotlib `marker`."""

    light: str
    dark: str
    dash: str = ""
    marker: str = "o"


#: Ink by name: what each thing that the book speaks of is drawn with.
INKS: dict[str, Ink] = {
    "target": Ink("#5b6470", "#aab3bf", "", "o"),
    "q": Ink("#856404", "#e3c04d", "", "o"),
    "score": Ink("#bd4700", "#ff9455", "", "o"),
    "control": Ink("#a23b78", "#f09acb", "7 3", "s"),
    "pathwise": Ink("#0067a5", "#62bbf5", "", "^"),
    "stl": Ink("#00745a", "#45cfa3", "2 3", "D"),
    "laplace": Ink("#6a3fb5", "#bda2f5", "9 3", "v"),
    "mcmc": Ink("#00707a", "#4fc9d4", "", "o"),
    "text": Ink("#1f2630", "#e6e9ee"),
    "muted": Ink("#5f6875", "#a3acb8"),
}

PAGE = Ink("#ffffff", "#15191f")


def ink(name: str) -> Ink:
    """The `Ink` called `name`; a `KeyError` that lists the names otherwise.

    >>> ink("pathwise").marker
    '^'
    """
    try:
        return INKS[name]
    except KeyError:
        raise KeyError(f"ink {name!r} is unknown; the palette has {', '.join(INKS)}") from None


def matplotlib_style(dark: bool = False) -> dict[str, object]:
    """`rcParams` that give a matplotlib figure the look of the explorables.

    >>> matplotlib_style()["axes.spines.top"]
    False
    """
    shade = "dark" if dark else "light"
    text, muted, page = (getattr(INKS["text"], shade), getattr(INKS["muted"], shade), getattr(PAGE, shade))
    return {
        "figure.facecolor": page, "axes.facecolor": page, "savefig.facecolor": page,
        "text.color": text, "axes.labelcolor": muted, "axes.edgecolor": muted,
        "axes.titlesize": 10, "axes.titlecolor": text, "axes.titlelocation": "left", "axes.titleweight": "bold",
        "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
        "xtick.color": muted, "ytick.color": muted, "font.family": "sans-serif",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
        "lines.linewidth": 1.8, "legend.frameon": False, "svg.fonttype": "none",
    }
