// One picture with its regions, captions and what each word hangs on; data as vivo/report/picture_data.py writes them.
// Text goes in as text alone: nothing of a caption or a name is ever read as HTML.
const SHOW_LABEL = 1, LABEL_INSIDE = 2, LABEL_RIGHT = 4, FIRST = 8;
const LEAST_FALL = 0.1; // of a log-probability; smaller changes are not worth a line
const BOX_COLORS = 6; // box-0 .. box-5 of the page's CSS
const DOMAIN_NAMES = { in: "in-domain", near: "near-domain", out: "out-domain", other: "no domain" };

// An element with attributes (on*: what to do at an event) and children (text or elements; null is left out).
function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function percent(probability) {
  if (probability >= 0.1) return `${Math.round(100 * probability)} %`;
  return probability >= 0.001 ? `${(100 * probability).toFixed(1)} %` : "< 0.1 %";
}
const likely = (word) => percent(Math.exp(word[2]));
const likelyWithout = (word, fall) => percent(Math.exp(word[2] - fall));
const isWhole = (region) => region[2] > 98 && region[3] > 98;
const regionName = (region) => region[4] || (isWhole(region) ? "whole picture" : "unnamed region");
const regionScore = (region) => (region[5] > 0 ? region[5].toFixed(2) : ""); // what no detector found has none
const quoted = (text) => `“${text}”`;

// The caption cut at every beginning and end of a mark and of a word: [text, kind of mark, number of word or -1].
function stretches(caption) {
  const words = caption.words || [];
  const cuts = new Set([0, caption.text.length]);
  for (const [start, end] of [...caption.marks, ...words]) cuts.add(start).add(end);
  const places = [...cuts].sort((a, b) => a - b);
  return places.slice(0, -1).map((start, n) => [
    caption.text.slice(start, places[n + 1]),
    (caption.marks.find((mark) => mark[0] <= start && start < mark[1]) || [0, 0, ""])[2],
    words.findIndex((word) => word[0] <= start && start < word[1]),
  ]);
}

// What is drawn of a picture, and what lights up together: regions, words and tags that hang on one another.
// large: words and regions are buttons, all regions are drawn; told(nodes): shows a sentence about what is looked at.
class PictureView {
  constructor(picture, rows, { large = false, told = () => {} } = {}) {
    Object.assign(this, { picture, rows, large, told, regions: [], words: [], tags: [], entries: [] });
    this.explained = picture.captions.findIndex((caption) => caption.words);
    this.caption = picture.captions[this.explained] || { words: [] };
  }

  // [number of the word, fall] of the words that are less likely without region (or tag) `n`, the greatest fall first.
  wordsOf(n, of = (word) => word[3][n]) {
    return this.caption.words.map((word, w) => [w, of(word)]).filter(([, fall]) => fall >= LEAST_FALL)
      .sort((a, b) => b[1] - a[1]);
  }
  textOf(w) { return this.caption.text.slice(this.caption.words[w][0], this.caption.words[w][1]); }

  shot(button = null) {
    const { picture } = this;
    const [width, height] = picture.size;
    const names = picture.regions.map(regionName).join(", ") || "none";
    this.tip = make("span", { class: "tip", hidden: true });
    const image = picture.image
      ? make("img", { src: picture.image, width, height, loading: "lazy", decoding: "async",
                      alt: `Picture ${picture.id}, regions: ${names}`,
                      onerror: () => image.replaceWith(this.noPicture("the picture's file is not beside this page")) })
      : this.noPicture("no picture file");
    const colors = new Map();
    for (const region of picture.regions) {
      if (region[4] && !colors.has(region[4])) colors.set(region[4], colors.size % BOX_COLORS);
    }
    const area = (n) => picture.regions[n][2] * picture.regions[n][3];
    // The smallest lie on top, so that each can be pointed at.
    const order = picture.regions.map((_, n) => n).sort((a, b) => area(b) - area(a));
    const boxes = order.map((n) => this.box(n, colors));
    return make("div", { class: "shot" }, image, button, make("div", { class: "regions", "aria-hidden": "true" }, boxes),
                this.tip);
  }
  noPicture(text) {
    const [width, height] = this.picture.size;
    const node = make("span", { class: "no-picture" }, text);
    node.style.aspectRatio = `${width} / ${height}`;
    return node;
  }
  box(n, colors) {
    const [x, y, width, height, label, , flags] = this.picture.regions[n];
    const style = label ? `box-${colors.get(label)}` : "box-unnamed";
    const place = `${flags & LABEL_INSIDE ? " inside" : ""}${flags & LABEL_RIGHT ? " right" : ""}`;
    const node = make("span", {
      class: `region ${style}${flags & FIRST ? "" : " later"}${isWhole([x, y, width, height]) ? " whole" : ""}`,
      onpointerenter: () => this.lookAtRegion(n), onpointerleave: () => this.lookAway(),
    }, flags & SHOW_LABEL ? make("span", { class: `label ${style}${place}` }, label) : null);
    for (const [side, value] of Object.entries({ left: x, top: y, width, height })) node.style[side] = `${value}%`;
    this.regions[n] = node;
    return node;
  }

  // The captions, one below the other.
  says() {
    return this.picture.captions.map((caption, row) => {
      const { name, role } = this.rows[row];
      const line = make("p", {}, this.marked(caption, row === this.explained));
      for (const found of caption.elsewhere) line.append(" ", make("mark", { class: "hit" }, found));
      for (const missed of caption.missed) {
        line.append(" ", make("span", { class: "missed" }, make("span", { class: "hidden" }, "not named: "),
                              make("del", {}, missed)));
      }
      const score = this.rows.length > 1 ? ` · CIDEr ${(caption.scores.CIDEr ?? 0).toFixed(1)}` : "";
      return make("div", { class: `says ${role}` },
                  name ? make("span", { class: "who" }, name + score) : null, line);
    });
  }
  marked(caption, explained) {
    const titles = { hit: "a novel object that the references name, too", wrong: "no reference names this" };
    const nodes = [];
    let mark = null, kindBefore = "";
    for (const [text, kind, w] of stretches(caption)) {
      const node = explained && w >= 0 ? this.word(w, text) : document.createTextNode(text);
      if (!kind) nodes.push(node);
      else if (mark && kind === kindBefore) mark.append(node);
      else nodes.push(mark = make("mark", { class: kind, title: titles[kind] }, node));
      if (!kind) mark = null;
      kindBefore = kind;
    }
    return nodes;
  }
  word(w, text) {
    const look = () => this.lookAtWord(w);
    const node = make(this.large ? "button" : "span", {
      class: "word", type: this.large ? "button" : null, onpointerenter: look, onfocus: look, onclick: look,
      onpointerleave: () => this.lookAway(), onblur: () => this.lookAway(),
    }, text);
    (this.words[w] ||= []).push(node);
    return node;
  }

  tagChips() {
    const falls = (this.caption.words[0] || [])[4] || [];
    return this.picture.tags.map((tag) => {
      const n = falls.findIndex(([name]) => name === tag);
      const node = make("span", { class: "tag" }, tag);
      if (n >= 0) this.tags[n] = node;
      return node;
    });
  }

  lookAway() {
    for (const node of [...this.regions, ...this.words.flat(), ...this.tags, ...this.entries]) {
      if (node) { node.classList.remove("lit"); node.style.removeProperty("--strength"); }
    }
    if (this.tip) this.tip.hidden = true;
  }
  light(node, strength) {
    if (!node) return;
    node.classList.add("lit");
    node.style.setProperty("--strength", String(Math.min(1, Math.max(0.15, strength)).toFixed(2)));
  }

  // A region: its words, and by how much each is less likely without it.
  lookAtRegion(n) {
    this.lookAway();
    const region = this.picture.regions[n], words = this.wordsOf(n);
    this.light(this.regions[n], 1);
    this.light(this.entries[n], 1);
    for (const [w, fall] of words) for (const node of this.words[w] || []) this.light(node, fall / 2);
    const head = make("b", {}, `${regionName(region)} ${regionScore(region)}`);
    const lines = words.slice(0, 3).map(([w, fall]) => {
      const word = this.caption.words[w];
      return make("span", { class: "effect" },
                  `${quoted(this.textOf(w))} ${likely(word)} → ${likelyWithout(word, fall)} without`);
    });
    if (!lines.length && this.explained >= 0) lines.push(make("span", { class: "effect" }, "no word hangs on it alone"));
    this.show(region, head, lines);
    this.told([head.cloneNode(true), ...lines.flatMap((line) => [" ", line.cloneNode(true)])]);
  }

  // A word: the regions and tags without which it is less likely.
  lookAtWord(w) {
    this.lookAway();
    const word = this.caption.words[w];
    for (const node of this.words[w] || []) this.light(node, 1);
    const inputs = [
      ...word[3].map((fall, n) => ({ fall, name: `${regionName(this.picture.regions[n])} (region ${n + 1})`, n })),
      ...word[4].map(([tag, fall], t) => ({ fall, name: `tag ${tag}`, t })),
    ].filter((input) => input.fall >= LEAST_FALL).sort((a, b) => b.fall - a.fall);
    for (const { fall, n, t } of inputs) {
      this.light(n === undefined ? this.tags[t] : this.regions[n], fall / 2);
      if (n !== undefined) this.light(this.entries[n], fall / 2);
    }
    const first = inputs.find((input) => input.n !== undefined);
    if (first) {
      this.show(this.picture.regions[first.n], make("b", {}, `${quoted(this.textOf(w))} ${likely(word)}`),
                [make("span", { class: "effect" }, `${likelyWithout(word, first.fall)} without this region`)]);
    }
    const line = (name, fall) => make("li", {}, make("span", {}, name), make("b", {}, likelyWithout(word, fall)));
    this.told([
      make("p", {}, make("b", {}, quoted(this.textOf(w))), ` has a probability of ${likely(word)}. Without`),
      make("ul", { class: "effects" }, inputs.slice(0, 5).map(({ name, fall }) => line(name, fall)),
           line("all regions", word[5]), word[4].length ? line("all tags", word[6]) : null),
    ]);
  }

  // The tip stands at the region, on the side that has room.
  show(region, head, lines) {
    const [x, y, width, height] = region;
    this.tip.replaceChildren(head, ...lines);
    const right = x + width / 2 > 50;
    const below = y < 24; // else above
    Object.assign(this.tip.style, {
      left: right ? "" : `${Math.max(0, x)}%`, right: right ? `${Math.max(0, 100 - x - width)}%` : "",
      top: below ? `${Math.min(y + height, 72)}%` : "", bottom: below ? "" : `${Math.min(100 - y, 72)}%`,
    });
    this.tip.hidden = false;
  }
}
