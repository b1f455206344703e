// What was found: the caption and its words, how sure it is, other wordings, regions, tags, and what lights up together.
import { altText, asJson, copy, imageElement } from "./copies.js";
import { announce, find, icon, make, percent, quoted, roving, sentence } from "./elements.js";

const LEAST = 0.05; // share of a word's probability; less than that hangs on nothing
const MUCH = 0.3; // from here on a word is underlined
const COLORS = 6; // box-0 .. box-5 of page.css
const FIRST_REGIONS = 12; // listed before "all regions"
const SURE = [[0.9, "Very sure"], [0.75, "Quite sure"], [0.5, "More likely than not"], [0, "A guess"]];

const isWhole = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1) >= 0.98;
export const regionName = (region) => region.tag || (isWhole(region) ? "whole picture" : "unnamed region");

// How sure, in words and as a number.
export function sureness(confidence, calibrated) {
  const number = percent(confidence);
  if (!calibrated) return { words: "Not calibrated", number, means: "an order only, no probability" };
  return { words: SURE.find(([least]) => confidence >= least)[1], number, means: "that everything it names is there" };
}

// One sentence for who does not see the page.
export function spoken({ caption, model }) {
  if (!caption) return "No description detected.";
  const { words, number } = sureness(caption.confidence, model.calibrated);
  const text = sentence(caption.text), end = /[.!?]$/.test(text) ? "" : "."; // where a voice rests
  return `${text}${end} ${words}, ${number}.`;
}

// The boxes over a picture; returned by their number. pointed(n): the pointer is there; left(): it is gone.
export function drawBoxes(regions, { pointed = null, left = null } = {}) {
  const colors = new Map();
  for (const { tag } of regions) if (tag && !colors.has(tag)) colors.set(tag, colors.size % COLORS);
  const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
  const nodes = regions.map((region, n) => {
    const [x1, y1, x2, y2] = region.box;
    const style = region.tag ? `box-${colors.get(region.tag)}` : "unnamed";
    const place = `${y1 < 0.08 ? " inside" : ""}${x1 > 0.7 ? " right" : ""}`;
    const node = make("span", {
      class: `region ${style}${isWhole(region) ? " whole" : ""}`,
      onpointerenter: pointed && (() => pointed(n)), onpointerleave: left, onclick: pointed && (() => pointed(n)),
    }, region.tag ? make("span", { class: `label${place}` }, region.tag) : null);
    const sides = { left: x1, top: y1, width: x2 - x1, height: y2 - y1 };
    for (const [side, share] of Object.entries(sides)) node.style[side] = `${100 * share}%`;
    return node;
  });
  // The smallest lie on top, so that each can be pointed at.
  const order = regions.map((_, n) => n).sort((a, b) => area(regions[b]) - area(regions[a]));
  find("boxes").replaceChildren(...order.map((n) => nodes[n]));
  return nodes;
}

function meter(share) {
  const filled = make("span");
  filled.style.width = `${100 * share}%`;
  return make("span", { class: "meter", "aria-hidden": "true" }, filled);
}

export class View {
  // name: of the picture's file or its address.
  constructor(description, name) {
    Object.assign(this, { description, name, words: [], entries: [], tags: new Map(), looks: new Map() });
    this.telling = make("p", { class: "telling" });
    this.boxes = drawBoxes(description.regions, { pointed: (n) => this.lookAtRegion(n), left: () => this.lookAway() });
    const { caption, alternatives, tags } = description;
    find("found").replaceChildren(...[
      caption ? this.caption() : this.nothing(), caption ? this.sure() : null,
      description.words.length ? this.telling : null, this.copies(),
      alternatives.length ? this.alternatives() : null, description.regions.length ? this.regions() : null,
      tags.length ? this.tagList() : null, this.about(),
    ].filter(Boolean));
    this.lookAway();
  }

  caption() {
    const { caption, words } = this.description, text = sentence(caption.text);
    if (!words.length) return make("p", { class: "caption" }, text);
    const nodes = [];
    let place = 0;
    words.forEach((word, w) => {
      nodes.push(text.slice(place, word.start), this.words[w] = this.word(w, text.slice(word.start, word.end)));
      place = word.end;
    });
    const group = make("div", { class: "caption", role: "group", "aria-label": "Words, and what each hangs on" },
                       nodes, text.slice(place));
    roving(group, this.words);
    // Read as one sentence; the words are there for who wants to know more.
    return make("div", {}, make("p", { class: "hidden", id: "caption" }, text), group);
  }
  word(w, text) {
    const hanging = this.regionsOf(w);
    const on = hanging.map(([n, share]) => `${this.called(n)} ${percent(share)}`).join(", ");
    const look = () => this.lookAtWord(w);
    const node = make("button", {
      type: "button", class: `word${hanging[0]?.[1] >= MUCH ? " hanging" : ""}`,
      "aria-label": `${text}: hangs on ${on || "no region alone"}`,
      onpointerenter: look, onpointerleave: () => this.lookAway(), onfocus: look, onblur: () => this.lookAway(), onclick: look,
    }, text);
    this.looks.set(node, look);
    return node;
  }
  nothing() {
    const best = percent(this.description.threshold);
    return make("div", { class: "nothing" }, make("p", { class: "caption" }, "No description detected."),
                make("p", { class: "note" }, `No sentence reached a confidence of ${best}, so none is given: a wrong`
                     + " description is worse than none. What was recognised is listed below."));
  }
  sure() {
    const { caption, model } = this.description;
    const { words, number, means } = sureness(caption.confidence, model.calibrated);
    return make("p", { class: `sure${model.calibrated ? "" : " uncalibrated"}` }, meter(caption.confidence),
                make("b", {}, words), make("span", { class: "number" }, number), make("small", {}, means));
  }
  copies() {
    const { description, name } = this;
    const kinds = [["Alt text", "copy-alt", altText, true], ["HTML", "copy-html", (d) => imageElement(d, name), true],
                   ["JSON", "copy-json", asJson, false]];
    const buttons = kinds.filter(([, , , wants]) => description.caption || !wants).map(([label, id, text]) => {
      const button = make("button", { type: "button", id, "aria-label": `${label}: copy` }, icon("copy"), label);
      button.addEventListener("click", async () => {
        const done = await copy(text(description));
        announce(done ? `${label} copied` : "The browser did not allow copying");
        button.classList.toggle("copied", done);
        button.replaceChildren(icon(done ? "done" : "close"), done ? "Copied" : "Not allowed");
        clearTimeout(button.timer);
        button.timer = setTimeout(() => {
          button.classList.remove("copied");
          button.replaceChildren(icon("copy"), label);
        }, 2000);
      });
      return button;
    });
    return make("div", { class: "copies", role: "group", "aria-labelledby": "copy-title" },
                make("h3", { id: "copy-title" }, "Copy as"), make("div", { class: "buttons" }, buttons));
  }
  alternatives() {
    return make("section", {}, make("h3", {}, "Other wordings"), make("ol", { class: "alternatives" },
      this.description.alternatives.map(({ text, confidence }) => make("li", {},
        make("span", { class: "text" }, sentence(text)), meter(confidence),
        make("span", { class: "number" }, percent(confidence))))));
  }
  regions() {
    const { regions } = this.description;
    this.entries = regions.map((region, n) => {
      const words = this.wordsOf(n).slice(0, 3).map(([w]) => quoted(this.textOf(w)));
      const look = () => this.lookAtRegion(n);
      const node = make("button", {
        type: "button", class: `entry${region.tag ? "" : " unnamed"}`, onpointerenter: look, onpointerleave: () => this.lookAway(),
        onfocus: look, onblur: () => this.lookAway(), onclick: look,
      }, this.called(n), region.score > 0 ? make("small", {}, ` ${percent(region.score)}`) : null,
         words.length ? make("span", { class: "carries" }, make("span", { class: "hidden" }, ", carries"), ` ${words.join(" ")}`) : null);
      this.looks.set(node, look);
      return node;
    });
    const shown = this.entries.slice(0, FIRST_REGIONS);
    const group = make("div", { class: "chips", role: "group", "aria-labelledby": "regions-title" }, shown);
    roving(group, shown);
    const more = shown.length === this.entries.length ? null : make("button", { type: "button", class: "quiet", onclick: () => {
      group.append(...this.entries.slice(FIRST_REGIONS));
      roving(group, this.entries);
      this.entries[FIRST_REGIONS].focus();
      more.remove();
    } }, `All ${this.entries.length} regions`);
    return make("section", {}, make("h3", { id: "regions-title" }, "Regions"), group, more);
  }
  tagList() {
    return make("section", {}, make("h3", {}, "Tags"), make("ul", { class: "chips" },
      this.description.tags.map(({ name, confidence }) => {
        const node = make("li", { class: "tag" }, name, make("small", {}, ` ${percent(confidence)}`));
        this.tags.set(name.toLowerCase(), node);
        return node;
      })));
  }
  about() {
    const { picture, requestId } = this.description;
    return make("p", { class: "about" }, `${picture.width} × ${picture.height} pixels, ${picture.format.toUpperCase()}. `,
                "Request ", make("code", {}, requestId));
  }

  // Names of regions that are called the same are told apart by a number.
  called(n) {
    const { regions } = this.description, name = regionName(regions[n]);
    const alike = regions.map((_, k) => k).filter((k) => regionName(regions[k]) === name);
    return alike.length > 1 ? `${name} ${alike.indexOf(n) + 1}` : name;
  }
  textOf(w) { return this.description.words[w].text; }
  // [region, share] of what a word hangs on, and [word, share] of what hangs on a region: the most first.
  regionsOf(w) { return ordered(this.description.words[w].regions); }
  wordsOf(n) { return ordered(this.description.words.map((word) => word.regions[n])); }

  // Back to what has the focus, or to nothing.
  lookAway() {
    const look = this.looks.get(document.activeElement);
    if (look) return look();
    this.dark();
    const way = matchMedia("(hover: none) and (pointer: coarse)").matches ? "Touch" : "Point at";
    this.telling.replaceChildren(`${way} a word to see what it hangs on, or a region to see its words.`);
  }
  dark() {
    for (const node of [...this.words, ...this.boxes, ...this.entries, ...this.tags.values()]) {
      node.classList.remove("lit");
      node.style.removeProperty("--strength");
    }
  }
  light(node, strength) {
    if (!node) return;
    node.classList.add("lit");
    const before = Number(node.style.getPropertyValue("--strength")); // a tag of several regions
    node.style.setProperty("--strength", Math.max(before, strength).toFixed(2));
  }
  lightRegion(n, strength) {
    this.light(this.boxes[n], strength);
    this.light(this.entries[n], strength);
    const { tag } = this.description.regions[n];
    if (tag) this.light(this.tags.get(tag.toLowerCase()), strength);
  }

  lookAtWord(w) {
    this.dark();
    this.light(this.words[w], 1);
    const hanging = this.regionsOf(w), { probability } = this.description.words[w];
    for (const [n, share] of hanging) this.lightRegion(n, share);
    const word = make("b", {}, quoted(this.textOf(w)));
    if (!hanging.length) {
      this.telling.replaceChildren(word, ` has a probability of ${percent(probability)} and hangs on no region alone.`);
      return;
    }
    const [[first, share]] = hanging;
    this.telling.replaceChildren(word, " hangs on ", make("b", {}, this.called(first)), ": without it, its probability falls from "
      + `${percent(probability)} to ${percent(probability * (1 - share))}.`);
  }
  lookAtRegion(n) {
    this.dark();
    this.lightRegion(n, 1);
    const hanging = this.wordsOf(n), names = hanging.slice(0, 4).map(([w, share]) => `${quoted(this.textOf(w))} (${percent(share)})`);
    for (const [w, share] of hanging) this.light(this.words[w], share);
    this.telling.replaceChildren(make("b", {}, sentence(this.called(n))), names.length ? ` carries ${names.join(", ")}.` : ": no word hangs on it alone.");
  }
}

function ordered(shares) {
  return shares.map((share, n) => [n, share]).filter(([, share]) => share >= LEAST).sort((a, b) => b[1] - a[1]);
}
