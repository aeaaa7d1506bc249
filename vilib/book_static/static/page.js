/* What every page does: a link arrives, what is wider than the page shows it and can be scrolled by keys, and paper is served too. */
(() => {
  // ------------------------------------------------------------------ a link from elsewhere arrives, whatever is set above it

  // Formulas take their height when they are set, after the browser went to the place that the address names: go there again,
  // until the reader moves. (Where an explorable stands, its own script does this.)
  const arrival = performance.getEntriesByType("navigation")[0]?.type === "navigate" && location.hash;
  const place = () => document.getElementById(decodeURIComponent(arrival.slice(1)));
  if (arrival && place() && !new URLSearchParams(location.search).has("lecture")) {
    const grown = new ResizeObserver(() => {
      if (location.hash === arrival) place().scrollIntoView({ behavior: "instant", block: "start" });
      else grown.disconnect();
    });
    grown.observe(document.body);
    for (const kind of ["wheel", "pointerdown", "keydown", "touchstart"]) {
      addEventListener(kind, () => grown.disconnect(), { once: true, capture: true, passive: true });
    }
  }

  // ------------------------------------------------------------------ no line begins with a full stop

  const bind = () => {
    for (const math of document.querySelectorAll("article span.math")) {
      const next = math.nextSibling, [marks] = next?.nodeType === Node.TEXT_NODE ? next.data.match(/^[.,;:!?)\]’”…]+/) ?? [] : [];
      if (!marks) continue;
      const whole = document.createElement("span");
      whole.className = "vilib-whole";
      next.splitText(marks.length);
      math.before(whole);
      whole.append(math, next);
    }
  };
  // The explorables come first.
  addEventListener("DOMContentLoaded", () => Promise.resolve(globalThis.vilibExplorables?.ready).then(bind));

  // ------------------------------------------------------------------ wide formulas, listings and tables take the focus

  const WIDE = "article :is(div.math, figure:has(> img), .pst-scrollable-table-container, pre, p:has(> .math, > .vilib-whole))";
  const look = (nodes) => {
    for (const node of nodes.flatMap((node) => [node, ...node.querySelectorAll("mjx-container[display]")])) {
      if (node.clientWidth && node.scrollWidth > node.clientWidth + 1) node.tabIndex = 0;
      else if (node.getAttribute("tabindex") === "0") node.removeAttribute("tabindex");
      more(node);
    }
  };
  const more = (node) => node.classList.toggle("vilib-more", getComputedStyle(node).overflowX !== "visible" && node.scrollLeft + node.clientWidth < node.scrollWidth - 1);
  addEventListener("scroll", ({ target }) => target.matches?.("[tabindex='0']") && more(target), { capture: true, passive: true });
  const sized = new ResizeObserver((all) => look(all.map(({ target }) => target)));
  addEventListener("load", () => {
    const wide = [...document.querySelectorAll(WIDE)];
    wide.forEach((node) => sized.observe(node));
    document.fonts.addEventListener("loadingdone", () => look(wide)); // a formula grows with its letters, and its box may not
  });

  // ------------------------------------------------------------------ on paper: light, and solutions for those who want them

  const page = document.documentElement;
  let theme = null;
  const light = () => { theme ??= page.dataset.theme; page.dataset.theme = "light"; };
  const asItWas = () => { if (theme !== null) page.dataset.theme = theme; theme = null; };
  matchMedia("print").addEventListener("change", (event) => (event.matches ? light() : asItWas()));
  addEventListener("beforeprint", light);
  addEventListener("afterprint", asItWas);

  const number = document.querySelector(".bd-article h1 > .section-number"), title = document.querySelector("#jb-print-docs-body > h1");
  if (number && title) title.prepend(number.cloneNode(true));

  const menu = document.querySelector(".dropdown-download-buttons .dropdown-menu");
  if (!menu || !document.querySelector(".solution.dropdown")) return;
  const item = document.createElement("li");
  item.innerHTML = `<button type="button" class="btn btn-sm dropdown-item vilib-print-solutions" title="Print with the solutions unfolded">
    <span class="btn__icon-container"><i class="fas fa-file-pdf"></i></span><span class="btn__text-container">.pdf, with solutions</span></button>`;
  menu.append(item);
  item.firstElementChild.addEventListener("click", () => {
    const toggle = (nodes) => nodes.forEach((node) => node.querySelector("button.toggle-button").click());
    const opened = [...document.querySelectorAll(".admonition.toggle.toggle-hidden")];
    toggle(opened);
    addEventListener("afterprint", () => toggle(opened), { once: true });
    window.print();
  });
})();
