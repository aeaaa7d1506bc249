"""The static form of an explorable: a picture, the description and the recording, as one piece of HTML.

The picture stands for readers without JavaScript and in print; `static/explorable.js` puts the moving form
in its place.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from .core import Definition
from .picture import picture_svg
from .recording import Recording


def island_html(definition: Definition, recording: Recording, values: Mapping[str, Any] | None = None) -> str:
    """A `<figure class="vilib-explorable">` that needs no kernel.

    Parameters
    ----------
    definition : what to show.
    recording : its frames, from `record`.
    values : the controls' values at first; the definition's own where left out.
    """
    values = definition.defaults() | dict(values or {})
    specification = definition.specification() | {"values": values, "recording": recording.header}
    picture = picture_svg(definition, recording.frame(**{c.name: values[c.name] for c in definition.computed}), values)
    return (
        f'<figure class="vilib-explorable" data-explorable="{definition.name}" data-mode="recorded">'
        f'<div class="vilib-picture">{picture}<p>{html.escape(definition.title)} '
        f"This picture moves where JavaScript runs.</p></div>"
        f'<script type="application/json" class="vilib-spec">{_for_script(specification)}</script>'
        f'<script type="application/octet-stream" class="vilib-recording">{recording.base64()}</script>'
        f"</figure>"
    )


def _for_script(data: Any) -> str:
    """JSON that cannot end a script element; numpy numbers and tuples become plain ones."""
    text = json.dumps(data, separators=(",", ":"), default=lambda x: x.item() if hasattr(x, "item") else list(x))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
