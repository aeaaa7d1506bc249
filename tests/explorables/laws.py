"""Laws that every explorable keeps."""

import re

from vilib.explorables.core import Definition, Frame


def assert_every_name_is_there(definition: Definition, frame: Frame) -> None:
    """What a caption, a note, a mark or a text of the frame names in braces, {name} or {name@at}, is a control or a channel."""
    names = {control.name for control in definition.controls} | set(frame)
    marks = [mark for panel in definition.panels for mark in panel.marks]
    texts = [definition.caption, *(panel.note for panel in definition.panels), *(mark.label for mark in marks),
             *(mark.alt for mark in marks if hasattr(mark, "alt")), *(c.item() for c in frame.values() if c.dtype == object)]
    for text in texts:
        for name, at in re.findall(r"\{(\w+)(?:@(\w+))?", text):
            assert name in names and (not at or at in names), (name, at, text)
