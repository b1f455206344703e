// All pictures of an evaluation or of a comparison: filters, search, order, pages of cards, and one picture at large.
// Only the cards of one page are in the document, so thousands of pictures cost no more than a few.
(() => {
  const PAGE = 24;
  const byId = (id) => document.getElementById(id);
  const { rows, pictures, order } = JSON.parse(byId("data").textContent);
  const state = { domain: "", object: "", outcome: "", constraints: "", search: "", order: "", page: "", picture: "" };
  const address = addressOf(state);
  const comparison = rows.length > 1;
  const selects = [...document.querySelectorAll("select[data-filter]")];
  const buttons = [...document.querySelectorAll("button[data-filter]")];
  const cards = byId("cards"), view = byId("view");
  const number = new Map(pictures.map((picture, n) => [picture.id, n]));
  const score = (picture, row = 0, metric = "CIDEr") => picture.captions[row].scores[metric] ?? 0;
  const difference = (picture) => (comparison ? score(picture, 0) - score(picture, 1) : 0);
  let found = pictures, shown = 0; // what the filters leave, in its order; the card that the keyboard is at

  // One text a picture, made when it is first searched.
  const texts = new Map();
  function textOf(picture) {
    if (!texts.has(picture)) {
      const parts = [picture.id, ...picture.captions.map((caption) => caption.text), ...picture.references,
                     ...picture.tags, ...picture.regions.map((region) => region[4]), ...picture.novel];
      texts.set(picture, parts.join("\n").toLowerCase());
    }
    return texts.get(picture);
  }

  const outcomes = {
    named: (picture) => picture.captions[0].named.length > 0,
    missed: (picture) => picture.captions[0].missed.length > 0,
    wrong: (picture) => picture.captions[0].marks.some((mark) => mark[2] === "wrong"),
    explained: (picture) => Boolean(picture.captions[0].words),
    first: (picture) => difference(picture) > 0,
    second: (picture) => difference(picture) < 0,
    equal: (picture) => difference(picture) === 0,
  };
  const traces = {
    satisfied: (trace) => trace.needed > 0 && trace.satisfied >= trace.needed,
    fell: (trace) => trace.fell_back,
    none: (trace) => trace.constraints.length === 0,
  };
  const length = (picture) => picture.captions[0].text.split(/\s+/).length;
  // The page's own order is the program's, which has seen more digits.
  const ranks = new Map(order.map((n, rank) => [pictures[n], rank]));
  const at = (picture) => number.get(picture.id);
  const orders = {
    own: (a, b) => ranks.get(a) - ranks.get(b), reverse: (a, b) => ranks.get(b) - ranks.get(a),
    file: (a, b) => at(a) - at(b),
    long: (a, b) => length(b) - length(a) || at(a) - at(b), short: (a, b) => length(a) - length(b) || at(a) - at(b),
    unlike: (a, b) => Math.abs(difference(b)) - Math.abs(difference(a)) || at(a) - at(b),
  };

  function fits(picture, words) {
    const trace = picture.captions[0].trace;
    return (!state.domain || picture.domain === state.domain)
      && (!state.object || picture.novel.includes(state.object))
      && (!state.outcome || !outcomes[state.outcome] || outcomes[state.outcome](picture))
      && (!state.constraints || !traces[state.constraints] || (trace && traces[state.constraints](trace)))
      && (!words.length || words.every((word) => textOf(picture).includes(word)));
  }

  const pages = () => Math.max(1, Math.ceil(found.length / PAGE));
  const page = () => Math.min(pages(), Math.max(1, parseInt(state.page, 10) || 1));

  function apply() {
    const words = state.search.toLowerCase().split(/\s+/).filter(Boolean);
    found = pictures.filter((picture) => fits(picture, words));
    found.sort(orders[state.order] || orders.own);
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(state[button.dataset.filter] === button.dataset.value));
    }
    for (const select of selects) select.value = state[select.dataset.filter];
    const mean = (row) => found.reduce((sum, picture) => sum + score(picture, row), 0) / Math.max(1, found.length);
    const means = rows.map((row, n) => `${row.name && comparison ? row.name + " " : ""}${mean(n).toFixed(1)}`);
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${pictures.length.toLocaleString("en")} pictures`
      + (found.length ? `, mean CIDEr ${means.join(", ")}` : "");
    byId("nothing").hidden = found.length > 0;
    drawPage();
  }

  function drawPage() {
    const first = (page() - 1) * PAGE;
    shown = 0;
    cards.replaceChildren(...found.slice(first, first + PAGE).map((picture, n) => card(picture, n ? -1 : 0)));
    for (const pager of document.querySelectorAll(".pager")) {
      pager.hidden = pages() < 2;
      pager.querySelector(".place").textContent = `page ${page()} of ${pages()}`;
      const [back, on] = pager.querySelectorAll("button");
      back.disabled = page() === 1;
      on.disabled = page() === pages();
    }
  }

  function facts(picture) {
    const nodes = [make("span", { class: `badge ${picture.domain}` }, DOMAIN_NAMES[picture.domain])];
    for (const name of picture.novel) {
      const unknown = picture.unknown.includes(name);
      nodes.push(make("span", { class: `novel${unknown ? " unknown" : ""}`,
                                title: unknown ? "novel, and the detector does not know it" : "novel" }, name));
    }
    if (picture.captions[0].trace?.fell_back) nodes.push(make("span", { class: "novel warn" }, "fell back"));
    const lead = difference(picture);
    const told = !comparison ? `CIDEr ${score(picture).toFixed(1)}`
      : lead ? `${rows[lead > 0 ? 0 : 1].name} ahead by ${Math.abs(lead).toFixed(1)}` : "equal";
    nodes.push(make("span", { class: "id" }, told));
    return nodes;
  }

  function card(picture, tabindex) {
    const drawn = new PictureView(picture, rows);
    const told = picture.captions.map((caption, n) => `${rows[n].name && comparison ? `${rows[n].name}: ` : ""}${caption.text}`);
    const label = `Picture ${picture.id}, ${DOMAIN_NAMES[picture.domain]}, CIDEr ${rows.map((_, n) =>
      score(picture, n).toFixed(1)).join(" against ")}: ${told.join("; ")}`;
    // The button lies under the regions, which want the pointer; a click on either arrives at the frame.
    return make("article", { class: "card", "data-id": picture.id },
      make("div", { class: "frame", onclick: () => open(picture) }, drawn.shot(
        make("button", { type: "button", class: "open", tabindex, "aria-haspopup": "dialog", "aria-label": label }))),
      make("div", { class: "body" }, make("p", { class: "meta" }, facts(picture)), drawn.says()));
  }

  function change(values) {
    Object.assign(state, { page: "" }, values);
    address.write();
    apply();
  }
  function turn(to, focus) {
    if (to < 1 || to > pages()) return;
    state.page = to > 1 ? String(to) : "";
    address.write();
    drawPage();
    if (focus === undefined) cards.scrollIntoView({ block: "start" });
    else moveTo(Math.min(focus, cards.children.length - 1));
  }

  // Arrows move between cards, over the ends of a page as well; Tab goes past them all.
  function moveTo(n) {
    const all = [...cards.querySelectorAll(".open")];
    if (!all[n]) return;
    all[shown]?.setAttribute("tabindex", "-1");
    all[shown = n].setAttribute("tabindex", "0");
    all[n].focus();
  }
  function columns() {
    const tops = [...cards.children].map((node) => node.offsetTop);
    return Math.max(1, tops.filter((top) => top === tops[0]).length);
  }
  cards.addEventListener("focusin", (event) => {
    const n = [...cards.querySelectorAll(".open")].indexOf(event.target);
    if (n >= 0 && n !== shown) moveTo(n);
  });
  cards.addEventListener("keydown", (event) => {
    const count = cards.children.length, wide = columns();
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: wide, ArrowUp: -wide, Home: -shown, End: count - 1 - shown };
    if (event.key === "PageDown") turn(page() + 1, 0);
    else if (event.key === "PageUp") turn(page() - 1, 0);
    else if (event.key in steps) {
      const next = shown + steps[event.key];
      if (next >= 0 && next < count) moveTo(next);
      else if (next >= count) turn(page() + 1, event.key === "ArrowDown" ? next - count : 0);
      else turn(page() - 1, PAGE - 1);
    } else return;
    event.preventDefault();
  });

  // One picture at large.
  function open(picture) {
    state.picture = picture.id;
    address.write();
    drawView(picture);
    if (!view.open) view.showModal();
    byId("view-title").focus();
  }
  function drawView(picture) {
    const drawn = new PictureView(picture, rows, { large: true, told: (nodes) => byId("telling").replaceChildren(...nodes) });
    const place = found.indexOf(picture);
    byId("view-title").textContent = `Picture ${picture.id}`;
    byId("view-place").textContent = place >= 0 ? `${(place + 1).toLocaleString("en")} of ${found.length.toLocaleString("en")}` : "";
    byId("view-shot").replaceChildren(drawn.shot());
    byId("view-meta").replaceChildren(...facts(picture));
    byId("view-says").replaceChildren(...drawn.says());
    const hint = drawn.explained < 0 ? null : make("p", { class: "note" }, "Point at or tap a word or a region.");
    byId("telling").replaceChildren(...[hint].filter(Boolean));
    const references = part(`References (${picture.references.length})`, make("ul", { class: "references" },
      picture.references.map((text) => make("li", {}, text))));
    byId("view-more").replaceChildren(...[constraints(drawn), references, scores(picture)].filter(Boolean));
    byId("view-inputs").replaceChildren(...[
      regionList(drawn), chips("Tags that the model was shown", drawn.tagChips()),
    ].filter(Boolean));
    byId("view-back").disabled = place < 1;
    byId("view-on").disabled = place < 0 || place + 1 >= found.length;
    view.scrollTop = 0;
  }
  const part = (title, ...nodes) => make("section", {}, make("h3", {}, title), ...nodes);
  const chips = (title, nodes) => (nodes.length ? part(title, make("p", { class: "tags" }, nodes)) : null);

  function regionList(drawn) {
    const { picture } = drawn;
    if (!picture.regions.length) return null;
    const entries = picture.regions.map((region, n) => {
      const look = () => drawn.lookAtRegion(n);
      const [first] = drawn.wordsOf(n);
      drawn.entries[n] = make("button", {
        type: "button", class: "entry", onpointerenter: look, onfocus: look, onclick: look,
        onpointerleave: () => drawn.lookAway(), onblur: () => drawn.lookAway(),
      }, `${n + 1} ${regionName(region)} `, make("small", {}, regionScore(region)),
        first ? make("span", { class: "explains" }, ` ${quoted(drawn.textOf(first[0]))}`) : null);
      return make("li", {}, drawn.entries[n]);
    });
    return part(`Regions (${picture.regions.length})`, make("ol", { class: "entries" }, entries));
  }

  function constraints(drawn) {
    const trace = drawn.picture.captions[0].trace;
    if (!trace) return null;
    const state = trace.fell_back ? "The search fell back to a caption with fewer."
      : `${trace.satisfied} of ${trace.constraints.length} satisfied, ${trace.needed} needed.`;
    const look = (n) => (n < 0 ? null : () => drawn.lookAtRegion(n));
    const items = trace.constraints.map((one) => make("li", {
      class: one.satisfied ? "ok" : "not-ok", onpointerenter: look(one.region), onpointerleave: () => drawn.lookAway(),
    }, make("b", {}, one.name), one.detected === one.name ? "" : ` (detected as ${one.detected})`, ` ${one.score.toFixed(2)}: `,
      one.satisfied ? `written as ${quoted(one.written)}` : "not in the caption"));
    const left = trace.left_out.map((one) => make("li", {}, `${one.name} ${one.score.toFixed(2)}: ${one.reason}`));
    return part("Constraints", make("p", { class: "note" }, state), make("ul", { class: "trace" }, items),
                left.length ? make("p", { class: "note" }, "Left out") : null,
                left.length ? make("ul", { class: "trace" }, left) : null);
  }

  function scores(picture) {
    const metrics = [...new Set(picture.captions.flatMap((caption) => Object.keys(caption.scores)))];
    if (!metrics.length) return null;
    return part("Scores of this picture", make("dl", { class: "scores" }, metrics.map((metric) => make("div", {},
      make("dt", {}, metric.replace("_", "-")),
      make("dd", {}, picture.captions.map((caption) => caption.scores[metric]?.toFixed(1) ?? "–").join(" against "))))));
  }

  function step(by) {
    const next = found[found.findIndex((picture) => picture.id === state.picture) + by];
    if (next) { state.picture = next.id; address.write(); drawView(next); }
  }
  byId("view-back").addEventListener("click", () => step(-1));
  byId("view-on").addEventListener("click", () => step(1));
  byId("view-close").addEventListener("click", () => view.close());
  view.addEventListener("click", (event) => { if (event.target === view) view.close(); }); // outside of it
  view.addEventListener("close", () => {
    const n = found.findIndex((picture) => picture.id === state.picture);
    state.picture = "";
    address.write();
    if (n < 0) return;
    if (Math.floor(n / PAGE) + 1 !== page()) { state.page = String(Math.floor(n / PAGE) + 1); address.write(); drawPage(); }
    moveTo(n % PAGE);
  });
  view.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    const words = [...view.querySelectorAll("button.word")], at = words.indexOf(document.activeElement);
    if (at >= 0) words[Math.min(words.length - 1, Math.max(0, at + by))].focus(); // among words, else among pictures
    else step(by);
  });

  for (const button of buttons) {
    button.addEventListener("click", () => change({ [button.dataset.filter]: button.dataset.value }));
  }
  for (const select of selects) select.addEventListener("change", () => change({ [select.dataset.filter]: select.value }));
  for (const link of document.querySelectorAll("[data-object]")) {
    link.addEventListener("click", (event) => {
      event.preventDefault();
      change({ object: link.dataset.object });
      byId("gallery").scrollIntoView({ block: "start" });
      moveTo(0);
    });
  }
  byId("search").addEventListener("input", (event) => change({ search: event.target.value }));
  byId("reset").addEventListener("click", () => {
    for (const key of Object.keys(state)) state[key] = "";
    byId("search").value = "";
    change({});
    byId("search").focus();
  });
  byId("boxes")?.addEventListener("click", (event) => {
    const off = document.body.classList.toggle("no-boxes");
    event.currentTarget.setAttribute("aria-pressed", String(!off));
  });
  for (const pager of document.querySelectorAll(".pager")) {
    const [back, on] = pager.querySelectorAll("button");
    back.addEventListener("click", () => turn(page() - 1));
    on.addEventListener("click", () => turn(page() + 1));
  }
  // The static pictures above the gallery become ones that can be pointed at and opened.
  for (const strip of document.querySelectorAll("[data-pictures]")) {
    strip.replaceChildren(...JSON.parse(strip.dataset.pictures).map((n) => card(pictures[n], 0)));
  }

  function show() {
    byId("search").value = state.search;
    apply();
    const wanted = pictures[number.get(state.picture)];
    if (wanted) open(wanted);
    else if (view.open) view.close();
  }
  byId("filters").hidden = false;
  address.read();
  address.listen(show);
  show();
})();
