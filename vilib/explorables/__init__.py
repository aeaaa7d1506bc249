"""Explorables: pictures with controls, alive with a kernel and without one.

`Explorable(name, title, controls, compute, panels)` makes one; `vilib.explorables.gallery` holds the book's own.
"""

from .contours import level_rings
from .core import (
    Axis,
    Band,
    Bar,
    Bars,
    Choice,
    Column,
    Contour,
    Definition,
    Ellipse,
    ExplorableError,
    Gaussian,
    Image,
    Letters,
    Line,
    NewNoise,
    Panel,
    Play,
    Point,
    Precision,
    Rule,
    Slider,
    Stems,
    Switches,
    Table,
)
from .palette import INKS, ink, matplotlib_style
from .picture import picture
from .recording import Recording, record
from .threads import checkpoint, stage
from .widget import Explorable, recording_wanted

__all__ = [
    "INKS", "Axis", "Band", "Bar", "Bars", "Choice", "Column", "Contour", "Definition", "Ellipse", "Explorable", "ExplorableError",
    "Gaussian", "Image", "Letters", "Line", "NewNoise", "Panel", "Play", "Point", "Precision", "Recording", "Rule", "Slider", "Stems",
    "Switches", "Table", "checkpoint", "ink", "level_rings", "matplotlib_style", "picture", "record",
    "recording_wanted", "stage",
]
