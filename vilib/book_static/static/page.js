/* What every page does: what is wider than the page can be scrolled by keys, and paper is served too. */
(() => {
  // ------------------------------------------------------------------ wide formulas, listings and tables take the focus

  const WIDE = "article :is(div.math, figure:has(> img), .pst-scrollable-table-container, pre, p:has(> .math))";
  const look = (nodes) => {
    for (const node of nodes.flatMap((node) => [node, ...node.querySelectorAll("mjx-container[display]")])) {
      if (node.clientWidth && node.scrollWidth > node.clientWidth + 1) node.tabIndex = 0;
      else if (node.getAttribute("tabindex") === "0") node.removeAttribute("tabindex");
    }
  };
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
