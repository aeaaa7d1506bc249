/* The lecture view of a chapter: one idea a screen, large, without sidebars. `?lecture` in the address opens it,
   `?lecture=7` at its seventh screen, and so does the button at the top of the page.

   A screen is an explorable, a picture, a theorem, an exercise, a table, a listing, or up to three formulas in a row,
   under the heading of its section. The prose between them is folded: T shows it. */
(() => {
  const article = document.querySelector("article.bd-article");
  const top = article && article.querySelector(":scope > section");
  if (!top || !article.querySelector("figure.vilib-explorable")) return;
  const page = document.documentElement;
  const HEADING = /^H[1-6]$/, AT_ONCE = 3;

  // ------------------------------------------------------------------ the screens

  const kindOf = (node) => {
    if (node.matches(".solution")) return "solution";
    if (node.querySelector("figure.vilib-explorable")) return "explorable";
    if (node.matches(".exercise")) return "exercise";
    if (node.matches("div.math")) return "formula";
    if (node.matches("figure, .cell") && node.querySelector("img")) return "picture";
    if (node.matches(".proof, table, .pst-scrollable-table-container, .literal-block-wrapper, .admonition:not(.dropdown)")) return "box";
    return "prose";
  };

  const screens = [];
  const collect = (section) => {
    const heading = [...section.children].find((node) => HEADING.test(node.tagName));
    let screen = null, prose = [];
    const begin = (kind, kept) => {
      screen = { section, heading, kind, kept, prose };
      prose = [];
      screens.push(screen);
    };
    const end = () => { // what is left over belongs to the screen before it, or stands alone
      if (!prose.length) return;
      if (screen) { screen.prose.push(...prose); prose = []; } else { const kept = prose; prose = []; begin("prose", kept); }
    };
    if (section === top) begin("title", []);
    for (const node of section.children) {
      node.dataset.lecture = "";
      if (node.tagName === "SECTION") { end(); screen = null; collect(node); continue; }
      if (node === heading || node.matches("script, style, span[id]:empty, .footnote-list, [role=list].citation-list")) continue;
      const kind = kindOf(node);
      if (kind === "prose") prose.push(node);
      else if (kind === "solution" && screen && screen.kind === "exercise") screen.kept.push(node);
      else if (kind === "formula" && screen && screen.kind === "formula" && screen.kept.length < AT_ONCE) {
        screen.kept.push(node);
        screen.prose.push(...prose);
        prose = [];
      } else begin(kind, [node]);
    }
    end();
  };
  collect(top);

  // ------------------------------------------------------------------ showing one

  let at = 0, text = false, on = false, question = 0, turn = -1; // of this screen's questions, and of its settings
  const bar = document.createElement("div");
  bar.className = "vilib-lecture-bar";
  bar.setAttribute("role", "toolbar");
  bar.setAttribute("aria-label", "Lecture");
  bar.innerHTML = `<button type="button" name="previous" title="Previous screen (←)" aria-label="Previous screen">←</button>
    <output aria-live="polite"></output>
    <button type="button" name="next" title="Next screen (→)" aria-label="Next screen">→</button>
    <button type="button" name="text" aria-pressed="false" title="Show the text (T)">Text</button>
    <button type="button" name="prompts" aria-pressed="false" title="What to ask (P)">Ask</button>
    <button type="button" name="full" title="Full screen (F)">Full screen</button>
    <button type="button" name="leave" title="Back to the chapter (Esc)">Leave</button>
    <div class="vilib-prompts" hidden></div>`;
  const button = (name) => bar.querySelector(`[name=${name}]`);
  const prompts = bar.querySelector(".vilib-prompts");
  const explorable = () => {
    const holder = screens[at].kept.find((node) => node.querySelector("figure.vilib-explorable"));
    return holder ? holder.querySelector("figure.vilib-explorable") : null;
  };
  /** What to ask at this screen: each paragraph that wants a prediction, and its links that set the explorable. */
  const questions = () => {
    const figure = explorable(), links = `a[href^="#${figure?.dataset.explorable}?"]`;
    const asks = (node) => [...node.querySelectorAll("em")].some((em) => /^predict/i.test(em.textContent));
    return screens[at].prose.flatMap((node) => (node.matches("ol, ul") ? [...node.children] : [node]))
      .filter((node) => node.matches("p, li") && asks(node))
      .map((node) => ({ node, presets: figure ? [...node.querySelectorAll(links)].map((link) => link.getAttribute("href")) : [] }));
  };

  const address = () => {
    const figure = explorable(), hash = figure && location.hash.startsWith(`#${figure.dataset.explorable}`) ? location.hash : "";
    try { history.replaceState(history.state, "", `${location.pathname}${on ? `?lecture=${at + 1}` : ""}${on ? hash : location.hash}`); } catch { /* a sandboxed frame */ }
  };

  const show = (k, keepPrompts = false) => {
    at = Math.max(0, Math.min(screens.length - 1, k));
    const screen = screens[at];
    if (!keepPrompts) { question = 0; turn = -1; }
    article.querySelectorAll(".vilib-now").forEach((node) => node.classList.remove("vilib-now"));
    for (let section = screen.section; section !== article; section = section.parentElement) section.classList.add("vilib-now");
    for (const node of [screen.heading, ...screen.kept, ...(text ? screen.prose : [])]) if (node) node.classList.add("vilib-now");
    page.dataset.screen = screen.kind;
    bar.querySelector("output").textContent = `${at + 1} / ${screens.length}`;
    button("previous").disabled = at === 0;
    button("next").disabled = at === screens.length - 1;
    button("text").setAttribute("aria-pressed", String(text));
    button("text").disabled = !screen.prose.length;
    button("prompts").disabled = !questions().length;
    if (!keepPrompts) ask(false);
    window.scrollTo(0, 0);
    address();
  };

  const ask = (open) => {
    const found = open ? questions()[question] : null;
    prompts.hidden = !found;
    if (found) {
      const own = found.node.cloneNode(true);
      own.querySelectorAll("[id]").forEach((each) => each.removeAttribute("id"));
      prompts.replaceChildren(...own.childNodes);
    }
    button("prompts").setAttribute("aria-pressed", String(!prompts.hidden));
  };

  const set = (wanted) => {
    try { history.replaceState(history.state, "", `?lecture=${at + 1}${wanted}`); } catch { /* as above */ }
    explorable().vilibView.follow(wanted);
    window.scrollTo(0, 0);
  };

  /** Question k: its first setting, and at the same key again the next one. */
  const pick = (k) => {
    const { presets } = questions()[k] || {};
    if (!presets) return false;
    turn = k === question ? turn + 1 : 0;
    question = k;
    if (presets.length && explorable().vilibView) set(presets[turn % presets.length]);
    ask(!prompts.hidden);
    return true;
  };

  const full = () => (document.fullscreenElement ? document.exitFullscreen() : page.requestFullscreen?.().catch(() => {}));

  // ------------------------------------------------------------------ in and out

  const enter = (k = 0) => {
    on = true;
    page.classList.add("vilib-lecture");
    document.body.append(bar);
    show(k);
  };
  const leave = () => {
    on = false;
    const from = screens[at].kept[0] || screens[at].heading;
    page.classList.remove("vilib-lecture");
    delete page.dataset.screen;
    bar.remove();
    address();
    from.scrollIntoView({ block: "start" });
  };

  bar.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (!chosen) { // a link inside a question sets the explorable
      const link = event.target.closest("a[href^='#']")?.getAttribute("href");
      if (questions()[question]?.presets.includes(link)) { event.preventDefault(); set(link); }
      return;
    }
    ({ previous: () => show(at - 1), next: () => show(at + 1), text: () => { text = !text; show(at, true); },
      prompts: () => ask(prompts.hidden), full, leave })[chosen.name]();
  });

  document.addEventListener("keydown", (event) => {
    if (!on || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target, key = event.key;
    const typing = target.matches?.("input:not([type=range], [type=checkbox]), textarea, select, [contenteditable]");
    const slider = target.matches?.("input[type=range]");
    const step = { ArrowLeft: -1, ArrowUp: -1, PageUp: -1, ArrowRight: 1, ArrowDown: 1, PageDown: 1 }[key];
    if (step && (key.startsWith("Page") || !(slider || typing))) {
      if ((key === "ArrowUp" || key === "ArrowDown") && page.scrollHeight > page.clientHeight + 4) return; // there is more below
      event.preventDefault();
      target.blur?.();
      show(at + step);
      return;
    }
    if (typing) return;
    const letter = key.toLowerCase();
    if (key === "Home" && !slider) show(0);
    else if (key === "End" && !slider) show(screens.length - 1);
    else if (letter === "f") full();
    else if (letter === "t") { text = !text; show(at, true); }
    else if (letter === "p") ask(prompts.hidden);
    else if (letter === "r") explorable()?.querySelector("[name=reset]")?.click();
    else if (key === "Escape" && !document.fullscreenElement) leave();
    else if (/^[1-9]$/.test(key)) { if (!pick(Number(key) - 1)) return; } else return;
    event.preventDefault();
  });

  const opener = document.createElement("button");
  opener.type = "button";
  opener.className = "btn btn-sm vilib-lecture-button";
  opener.title = "Lecture view";
  opener.setAttribute("aria-label", "Lecture view");
  opener.addEventListener("click", () => {
    const here = screens.findIndex((screen) => screen.kept.some((node) => node.getBoundingClientRect().bottom > 80));
    enter(Math.max(0, here));
  });
  document.querySelector(".article-header-buttons")?.prepend(opener);

  const wanted = new URLSearchParams(location.search).get("lecture");
  if (wanted !== null) {
    const name = location.hash.replace(/^#/, "").split("?")[0];
    const linked = screens.findIndex((screen) => name && screen.kept.some((node) => node.querySelector(`figure[data-explorable="${CSS.escape(name)}"]`)));
    const number = Number.parseInt(wanted, 10);
    enter(linked >= 0 && !(number >= 1) ? linked : number >= 1 ? number - 1 : 0);
  }
  globalThis.vilibLecture = { screens, get at() { return at; }, show, enter, leave };
})();
