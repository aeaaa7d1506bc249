"""A reader's hands and eyes on one explorable in a page, on JavaScript's side of the DOM contract.

The root is `figure.vilib-explorable`. `data-frame` goes up with every drawn frame; controls are native and carry the
control's name; every number that a reader reads stands in an `<output>` with its full precision in `data-value`.
Live, `data-state` says how Python does: `computing` (for longer than a glance), `broken`, `stopped`, `gone` (the kernel), or
nothing; before the first picture `data-ready` stays away, unless there are words in its place (`data-frame` is 0 then).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from playwright.sync_api import ElementHandle, Page

READY = 'figure.vilib-explorable[data-ready="true"]'

#: Puts controls where `values` says, as a hand would: events on the native inputs. Play heads and buttons too.
_PUT = """(root, values) => {
  const spec = root.vilibView.spec;
  for (const control of spec.controls) {
    if (!(control.name in values)) continue;
    const value = values[control.name];
    const fire = (node, kind) => node.dispatchEvent(new Event(kind, { bubbles: true }));
    const named = (tag) => root.querySelector(`${tag}[name="${control.name}"]`);
    if (control.kind === "slider" || control.kind === "play") {
      const place = control.kind === "play" ? value : control.values.indexOf(value);
      if (place < 0) throw new Error(`${control.name} does not offer ${value}`);
      const input = named("input");
      if (input.valueAsNumber === place) continue;
      input.value = place;
      fire(input, "input");
    } else if (control.kind === "choice") {
      const select = named("select");
      if (!select || select.value === value) continue; // one option alone is not a choice
      select.value = value;
      fire(select, "change");
    } else if (control.kind === "noise") {
      for (let i = 0; i < control.count && root.vilibView.values[control.name] !== value; i++) named("button").click();
    } else {
      for (const box of root.querySelectorAll(`input[name="${control.name}"]`)) {
        if (box.checked !== value.includes(box.value)) box.click();
      }
    }
  }
}"""

#: All that a reader sees, to be compared with itself later.
_LOOK = """root => {
  const all = (selector) => [...root.querySelectorAll(selector)];
  return {
    frame: Number(root.dataset.frame),
    said: all("output[data-control]").map((o) => o.dataset.value).join(),
    table: all("output[data-channel]").map((o) => o.dataset.value).join(),
    picture: all(".vl-panel:not([hidden]) svg").map((svg) => svg.innerHTML).join(),
  };
}"""

#: What the outputs of a kind say: control or channel → `data-value`.
_OUTPUTS = """(root, kind) => Object.fromEntries(
  [...root.querySelectorAll(`output[data-${kind}]`)].map((output) => [output.dataset[kind], output.dataset.value]))"""


class Hands:
    """One explorable of a page.

    Parameters
    ----------
    page : where it stands.
    root : its `<figure>`; see `all_ready`.
    """

    def __init__(self, page: Page, root: ElementHandle) -> None:
        self.page = page
        self.root = root
        self.name: str = root.get_attribute("data-explorable")
        self.spec: dict[str, Any] = root.evaluate("root => root.vilibView.spec")

    # -- eyes

    @property
    def frame(self) -> int:
        """How many frames have been drawn."""
        return int(self.root.get_attribute("data-frame"))

    @property
    def caption(self) -> str:
        return self.root.query_selector("figcaption").inner_text()

    def values(self) -> dict[str, Any]:
        """Every control's value, as its `<output>` says it."""
        return self.root.evaluate(_OUTPUTS, "control")

    def numbers(self) -> dict[str, str]:
        """The full-precision text of every number that a reader reads: channel → `data-value`."""
        return self.root.evaluate(_OUTPUTS, "channel")

    def channels(self) -> dict[str, Any]:
        """The whole frame that is drawn, as the front end holds it: channel → list of numbers (None: a gap) or text."""
        return self.root.evaluate("""root => {
          const { recording } = root.vilibView.spec, { frame } = root.vilibView;
          return Object.fromEntries(Object.keys(recording.channels).map((name) => {
            const channel = frame.get(name);
            const plain = (v) => (Number.isNaN(v) ? null : v);
            return [name, typeof channel === "string" ? channel : Array.from(channel, plain)];
          }));
        }""")

    def picture(self) -> str:
        """The marks and labels of every panel that is shown."""
        return self.root.evaluate(
            "root => [...root.querySelectorAll('.vl-panel:not([hidden]) svg')].map(s => s.innerHTML).join()"
        )

    def axes(self) -> list[str]:
        """The axes of every panel that is shown: ticks, their texts, their places."""
        return self.root.evaluate(
            "root => [...root.querySelectorAll('.vl-panel:not([hidden]) .vl-axes')].map(s => s.innerHTML)"
        )

    # -- hands

    def find(self, selector: str) -> ElementHandle:
        node = self.root.query_selector(selector)
        assert node, f"{self.name} has no {selector}"
        return node

    def press(self, selector: str, key: str) -> None:
        """Give a control the focus and press a key."""
        self.find(selector).focus()
        self.page.keyboard.press(key)

    def put(self, values: Mapping[str, Any]) -> None:
        """Move controls to `values`; a recording has answered when this returns."""
        self.root.evaluate(_PUT, dict(values))

    def until(self, condition: str, argument: Any = None) -> None:
        """Wait until a JavaScript expression of `root` and `a` is true."""
        self.page.wait_for_function(f"([root, a]) => {condition}", arg=[self.root, argument])

    def until_drawn_after(self, frame: int) -> None:
        self.until("Number(root.dataset.frame) > a", frame)

    def until_answered(self, values: Mapping[str, Any]) -> None:
        """Live: wait for the drawn frame to be the answer to these control values."""
        self.until(
            "Object.entries(a).every(([name, value]) =>"
            " JSON.stringify(JSON.parse(root.dataset.answers || '{}')[name]) === JSON.stringify(value))",
            dict(values),
        )

    def changes(self, action: Callable[[], Any], what: str) -> tuple[bool, bool]:
        """Do it; assert that a frame was drawn and that a number which can be read changed.

        Returns whether the numbers of the table changed, and whether the picture did.
        """
        before = self.root.evaluate_handle(_LOOK)
        action()
        try:
            self.until("Number(root.dataset.frame) > a.frame", before)
        except Exception as error:
            raise AssertionError(f"{self.name}: {what} drew no frame") from error
        try:  # that frame may still be of what came before: a theme, a size, a reset
            self.until(f"[({_LOOK})(root)].some((b) => b.said !== a.said || b.table !== a.table)", before)
        except Exception as error:
            raise AssertionError(f"{self.name}: {what} changed no output") from error
        return tuple(self.root.evaluate(
            f"(root, a) => {{ const b = ({_LOOK})(root); return ['table','picture'].map(k => a[k] !== b[k]); }}",
            before,
        ))


def all_ready(page: Page) -> list[Hands]:
    """Every explorable of the page, once all of them are ready."""
    page.wait_for_function(
        f"() => {{ const all = document.querySelectorAll('figure.vilib-explorable'); "
        f"return all.length > 0 && all.length === document.querySelectorAll('{READY}').length; }}"
    )
    return [Hands(page, root) for root in page.query_selector_all(READY)]
