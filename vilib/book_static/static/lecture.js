/* The lecture view of a chapter: one idea a screen, large, without sidebars. `?lecture` in the address opens it,
   `?lecture=7` at its seventh screen, and so does the button at the top of the page.

   A screen is an explorable, a picture, a theorem, an exercise, a table, a listing, or up to three formulas in a row,
   under the heading of its section. The prose between them is folded: T shows it. Type is as large as the screen
   allows, in a few sizes; what is longer than the screen is read on by Page Down. `?` shows the keys, S all screens. */
(() => {
  const article = document.querySelector("article.bd-article");
  const top = article && article.querySelector(":scope > section");
  if (!top || !article.querySelector("figure.vilib-explorable")) return;
  const page = document.documentElement;
  const HEADING = /^H[1-6]$/, AT_ONCE = 3;
  const SIZES = { picture: [1.2, 1], explorable: [1], title: [1], other: [1.6, 1.4, 1.2, 1] }; // of type, the largest first
  const KEYS = [["→ ←", "the next screen, the one before"], ["Page Down, Page Up, Space", "the same, but through a long screen first; a clicker sends these"],
    ["S", "all screens, and the next chapter"], ["1 … 9", "the explorable as that question wants it; again: its next setting"],
    ["P", "the question to ask first"], ["R", "the explorable as it was at first"], ["T", "the text of this screen"], ["A", "the answer, or the solution of the exercise; again: folds it"],
    ["Ctrl + K", "search the book; Alt + ← comes back"], ["F", "full screen"], ["Esc", "back to the chapter"]];

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
      if (screen) { screen.prose.push(...prose); prose = []; return; }
      const ideas = []; // a paragraph that begins with words in bold begins one
      for (const node of prose) if (ideas.length && !(node.matches("p") && node.firstChild?.nodeName === "STRONG")) ideas.at(-1).push(node); else ideas.push([node]);
      prose = [];
      ideas.forEach((kept) => begin("prose", kept));
      screen = null;
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
  let left = null; // the screen from which the view was left
  const bar = document.createElement("div");
  bar.className = "vilib-lecture-bar";
  bar.setAttribute("role", "toolbar");
  bar.setAttribute("aria-label", "Lecture");
  bar.innerHTML = `<button type="button" name="previous" title="Previous screen (←)" aria-label="Previous screen">←</button>
    <button type="button" name="screens" aria-expanded="false" title="All screens (S)"><output aria-live="polite"></output></button>
    <button type="button" name="next" title="Next screen (→)" aria-label="Next screen">→</button>
    <button type="button" name="text" aria-pressed="false" title="Show the text (T)">Text</button>
    <button type="button" name="prompts" aria-pressed="false" title="What to ask (P)">Ask</button>
    <button type="button" name="full" title="Full screen (F)">Full screen</button>
    <button type="button" name="keys" aria-expanded="false" title="The keys (?)">Keys</button>
    <button type="button" name="leave" title="Back to the chapter (Esc)">Leave</button>
    <div class="vilib-prompts" hidden></div>
    <div class="vilib-sheet" hidden></div>`;
  const button = (name) => bar.querySelector(`[name=${name}]`);
  const prompts = bar.querySelector(".vilib-prompts"), sheet = bar.querySelector(".vilib-sheet");
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

  /** How far what stands on the screen reaches below its edge, where the bar begins. */
  const below = () => Math.max(0, ...[...article.querySelectorAll(".vilib-now:not(section)")]
    .map((node) => node.getBoundingClientRect().bottom)) - bar.getBoundingClientRect().top;

  /** The largest type with which all is on the screen; a picture gives way to its caption. */
  const fit = () => {
    const { kind, kept } = screens[at];
    const parts = kept.flatMap((node) => [node, ...node.querySelectorAll("mjx-container[display], pre")]);
    const fits = () => below() <= 0 && parts.every((node) => node.scrollWidth <= node.clientWidth + 1);
    page.style.removeProperty("--lecture-picture");
    for (const size of SIZES[kind] || SIZES.other) {
      page.style.setProperty("--lecture-size", size);
      if (fits()) break;
    }
    const image = kind === "picture" && below() > 0 && kept[0].querySelector("img");
    if (image) page.style.setProperty("--lecture-picture", `max(35vh, ${Math.floor(image.clientHeight - below())}px)`);
    more();
  };
  const more = () => bar.toggleAttribute("data-more", below() > 8);
  const refit = () => { if (on && window.scrollY === 0) fit(); };

  const show = (k, keepPrompts = false) => {
    at = Math.max(0, Math.min(screens.length - 1, k));
    const screen = screens[at];
    if (!keepPrompts) { question = 0; turn = -1; }
    article.querySelectorAll(".vilib-now").forEach((node) => node.classList.remove("vilib-now", "vilib-above"));
    for (let section = screen.section; section !== article; section = section.parentElement) section.classList.add("vilib-now");
    for (let section = screen.section.parentElement; section !== top && section !== article && screen.section !== top; section = section.parentElement) {
      [...section.children].find((node) => HEADING.test(node.tagName))?.classList.add("vilib-now", "vilib-above"); // the section that this one is a part of
    }
    for (const node of [screen.heading, ...screen.kept, ...(text ? screen.prose : [])]) if (node) node.classList.add("vilib-now");
    page.dataset.screen = screen.kind;
    page.toggleAttribute("data-text", text);
    bar.querySelector("output").textContent = `${at + 1} / ${screens.length}`;
    button("previous").disabled = at === 0;
    button("next").disabled = at === screens.length - 1;
    button("text").setAttribute("aria-pressed", String(text));
    button("text").disabled = !screen.prose.length;
    button("prompts").disabled = !questions().length;
    if (!keepPrompts) ask(false);
    unfold(null);
    window.scrollTo({ top: 0, behavior: "instant" });
    fit();
    address();
  };

  /** On: through what is below the edge of a long screen, then to the next. */
  const onward = () => {
    if (below() > 8) window.scrollBy({ top: Math.min(below() + 16, 0.85 * bar.getBoundingClientRect().top), behavior: "instant" });
    else show(at + 1);
  };
  const backward = () => {
    if (window.scrollY > 8) window.scrollBy({ top: -0.85 * bar.getBoundingClientRect().top, behavior: "instant" });
    else show(at - 1);
  };

  /** Which screen something of the page stands on; -1 for none. */
  const screenOf = (target) => {
    const holds = (nodes) => nodes.some((node) => node.contains(target));
    const follows = (nodes) => nodes.some((node) => target.compareDocumentPosition(node) & Node.DOCUMENT_POSITION_FOLLOWING);
    for (const found of [({ kept }) => holds(kept), ({ prose }) => holds(prose),
      ({ section, heading }) => target === heading || target.contains(section), ({ kept, prose }) => follows([...kept, ...prose])]) {
      const k = target ? screens.findIndex(found) : -1;
      if (k >= 0) return k;
    }
    return -1;
  };
  const targetOf = (hash) => {
    const name = CSS.escape(decodeURIComponent(hash.replace(/^#/, "").split("?")[0]));
    return name ? document.querySelector(`article figure[data-explorable="${name}"]`) || article.querySelector(`#${name}`) : null;
  };
  /** Go where a link inside the chapter leads; Back comes back. */
  const goTo = (hash) => {
    const target = targetOf(hash), k = screenOf(target);
    if (k < 0) return false;
    history.pushState(history.state, "");
    if (screens[k].prose.some((node) => node.contains(target))) text = true;
    show(k);
    if (target.vilibView) set(hash);
    else if (target.getBoundingClientRect().bottom > bar.getBoundingClientRect().top) target.scrollIntoView({ block: "center", behavior: "instant" });
    return true;
  };

  // ------------------------------------------------------------------ all screens, and the keys

  const listed = () => {
    const bySection = new Map();
    for (const screen of screens) bySection.set(screen.section, [...(bySection.get(screen.section) || []), screen]);
    const list = document.createElement("ol");
    for (const [section, some] of bySection) {
      const item = document.createElement("li"), name = some[0].heading.cloneNode(true);
      name.querySelectorAll(".headerlink").forEach((node) => node.remove());
      item.append(Object.assign(document.createElement("span"), { textContent: name.textContent.trim() }));
      for (const screen of some) {
        const k = screens.indexOf(screen), one = Object.assign(document.createElement("button"), { type: "button", textContent: k + 1, title: screen.kind });
        one.dataset.screen = k;
        if (k === at) one.setAttribute("aria-current", "true");
        item.append(one);
      }
      list.append(item);
    }
    const chapters = document.createElement("p");
    for (const [way, before, after] of [["left-prev", "← ", ""], ["right-next", "", " →"]]) {
      const link = document.querySelector(`.prev-next-footer a.${way}, .prev-next-area a.${way}`);
      const title = link?.querySelector(".prev-next-title")?.textContent;
      if (title) chapters.append(Object.assign(document.createElement("a"), { href: inLecture(link.href), textContent: before + title + after }));
    }
    return [list, chapters];
  };
  const keys = () => {
    const list = document.createElement("dl");
    for (const [key, what] of KEYS) {
      list.append(Object.assign(document.createElement("dt"), { textContent: key }), Object.assign(document.createElement("dd"), { textContent: what }));
    }
    return [list];
  };
  /** Open the sheet of all screens or of the keys; it closes at the same key, at Escape and with the next screen. */
  const unfold = (what) => {
    const name = sheet.hidden || sheet.dataset.what !== what ? what : null, within = sheet.contains(document.activeElement);
    sheet.hidden = !name;
    for (const each of ["screens", "keys"]) button(each).setAttribute("aria-expanded", String(name === each));
    if (!name) { if (within) document.activeElement.blur(); return; }
    ask(false);
    sheet.dataset.what = name;
    sheet.replaceChildren(...(name === "screens" ? listed() : keys()));
    sheet.querySelector("[aria-current]")?.focus();
  };
  /** The address of another page of the book, in the lecture view. */
  const inLecture = (href) => {
    const url = new URL(href);
    url.search = "?lecture";
    return url.href;
  };

  const ask = (open) => {
    const found = open ? questions()[question] : null;
    prompts.hidden = !found;
    if (found) {
      const own = found.node.cloneNode(true);
      own.querySelectorAll("[id]").forEach((each) => each.removeAttribute("id"));
      prompts.replaceChildren(...own.childNodes);
      unfold(null);
    }
    button("prompts").setAttribute("aria-pressed", String(!prompts.hidden));
  };

  const set = (wanted) => {
    try { history.replaceState(history.state, "", `?lecture=${at + 1}${wanted}`); } catch { /* as above */ }
    explorable().vilibView.follow(wanted);
    window.scrollTo({ top: 0, behavior: "instant" });
  };

  /** Question k: its first setting, and at the same key again the next one. */
  const pick = (k) => {
    const { presets } = questions()[k] || {};
    if (!presets) return false;
    turn = k === question ? turn + 1 : 0;
    question = k;
    if (presets.length && explorable()?.vilibView) set(presets[turn % presets.length]);
    ask(!prompts.hidden);
    return true;
  };

  /** Unfold the first answer or solution of this screen that is folded; fold them all again if none is. */
  const answer = () => {
    const all = screens[at].kept.flatMap((node) => (node.matches(".toggle") ? [node] : [...node.querySelectorAll(".toggle")]));
    const folded = all.find((node) => node.matches(".toggle-hidden"));
    for (const node of folded ? [folded] : all) node.querySelector("button.toggle-button")?.click();
    more();
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
    unfold(null);
    page.classList.remove("vilib-lecture");
    delete page.dataset.screen;
    bar.remove();
    address();
    left = at;
    place(at).scrollIntoView({ block: "start", behavior: "instant" });
  };
  const place = (k) => screens[k].kept[0] || screens[k].heading;
  /** The screen of what a reader has before the eyes: the one that was left, if it is still there; else the first of which anything is. */
  const here = () => {
    const inSight = (node) => node.getBoundingClientRect().bottom > 80;
    if (left !== null && inSight(place(left)) && place(left).getBoundingClientRect().top < window.innerHeight) return left;
    return Math.max(0, screens.findIndex(({ kind, heading, kept, prose }) => (kind === "title" ? [heading] : [...kept, ...prose]).some(inSight)));
  };

  bar.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (chosen?.dataset.screen) { show(Number(chosen.dataset.screen)); return; }
    if (!chosen) { // a link inside a question sets the explorable
      const link = event.target.closest("a[href^='#']")?.getAttribute("href");
      if (questions()[question]?.presets.includes(link)) { event.preventDefault(); set(link); }
      return;
    }
    ({ previous: () => show(at - 1), next: () => show(at + 1), text: () => { text = !text; show(at, true); },
      prompts: () => ask(prompts.hidden), screens: () => unfold("screens"), keys: () => unfold("keys"), full, leave })[chosen.name]();
  });

  article.addEventListener("click", (event) => { // a link leads to a screen of this chapter, or of another
    const link = event.target.closest("a[href]");
    if (!on || !link || event.ctrlKey || event.metaKey || event.shiftKey || link.target) return;
    const href = link.getAttribute("href"), screen = screens[at];
    if (href.startsWith("#")) {
      const target = targetOf(href), shown = [...screen.kept, ...(text ? screen.prose : [])].some((node) => node.contains(target));
      if (!(target?.vilibView && shown) && goTo(href)) event.preventDefault(); // an explorable that is here follows by itself
    } else if (new RegExp("^[^/:]+\\.html").test(href)) {
      event.preventDefault();
      location.assign(inLecture(link.href));
    }
  });
  window.addEventListener("popstate", () => {
    const number = Number.parseInt(new URLSearchParams(location.search).get("lecture"), 10);
    if (on && number >= 1 && number - 1 !== at) show(number - 1);
    else if (!on && number >= 1) enter(number - 1);
  });
  article.addEventListener("click", () => requestAnimationFrame(() => { if (on) more(); })); // something was unfolded
  window.addEventListener("scroll", () => { if (on) more(); }, { passive: true });
  window.addEventListener("resize", refit);
  article.addEventListener("load", refit, true); // a picture has come
  window.addEventListener("load", () => { // and formulas, and their letters
    window.MathJax?.startup?.promise?.then(refit);
    document.fonts.addEventListener("loadingdone", refit);
  });

  document.addEventListener("keydown", (event) => {
    if (!on || event.ctrlKey || event.metaKey || event.altKey) return;
    const target = event.target, key = event.key;
    const typing = target.matches?.("input:not([type=range], [type=checkbox]), textarea, select, [contenteditable]");
    const slider = target.matches?.("input[type=range]");
    if (!sheet.hidden && key.startsWith("Arrow") && sheet.contains(target)) { // among the screens
      const all = [...sheet.querySelectorAll("button, a")], next = all.indexOf(target) + (/Left|Up/.test(key) ? -1 : 1);
      all[Math.max(0, Math.min(all.length - 1, next))].focus();
      event.preventDefault();
      return;
    }
    const pressed = key === " " && target.matches?.("button, a, input, summary, select, textarea, [tabindex]");
    const step = { ArrowLeft: () => show(at - 1), ArrowRight: () => show(at + 1), ArrowUp: backward, PageUp: backward, ArrowDown: onward, PageDown: onward,
      " ": event.shiftKey ? backward : onward }[key];
    if (step && !pressed && (key.startsWith("Page") || !(slider || typing))) {
      event.preventDefault();
      target.blur?.();
      step();
      return;
    }
    if (typing) return;
    const letter = key.toLowerCase();
    if (key === "Home" && !slider) show(0);
    else if (key === "End" && !slider) show(screens.length - 1);
    else if (letter === "f") full();
    else if (letter === "t") { text = !text; show(at, true); }
    else if (letter === "p") ask(prompts.hidden);
    else if (letter === "a") answer();
    else if (letter === "s") unfold("screens");
    else if (key === "?" || letter === "h") unfold("keys");
    else if (key === "Escape" && !sheet.hidden) unfold(null);
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
  opener.addEventListener("click", () => enter(here()));
  document.querySelector(".article-header-buttons")?.prepend(opener);

  const wanted = new URLSearchParams(location.search).get("lecture");
  if (wanted !== null) {
    const linked = screenOf(targetOf(location.hash));
    const number = Number.parseInt(wanted, 10);
    const k = number >= 1 ? number - 1 : Math.max(0, linked);
    text = k === linked && screens[k].prose.some((node) => node.contains(targetOf(location.hash)));
    enter(k);
  }
  globalThis.vilibLecture = { screens, get at() { return at; }, show, enter, leave };
})();
