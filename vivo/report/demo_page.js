// Filters of the gallery. Without this script the page shows all pictures and loses nothing else.
// The state lives in the address (#domain=out&class=fox), so a filtered view can be linked to.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")];
  const groups = [...document.querySelectorAll(".group[data-group]")];
  const buttons = [...document.querySelectorAll("button[data-filter]")];
  const search = byId("search");
  const state = { domain: "", outcome: "", class: "" };

  function readAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const key of Object.keys(state)) state[key] = given.get(key) || "";
    search.value = state.class;
  }

  function writeAddress() {
    const kept = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
    // replaceState: typing a word must not fill the history of the browser. An opaque origin may refuse it.
    try { history.replaceState(null, "", "#" + kept); } catch { /* the view still works, it only has no address */ }
  }

  function apply() {
    const words = state.class.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const names = card.dataset.search.split("|");
      const fits = (!state.domain || card.dataset.domain === state.domain)
        && (!state.outcome || card.dataset.outcome === state.outcome)
        && (!words.length || names.some((name) => words.every((word) => name.includes(word))));
      card.hidden = !fits;
      shown += fits;
    }
    const filtered = state.domain || state.outcome || words.length;
    for (const group of groups) group.hidden = filtered && !group.querySelector(".card:not([hidden])");
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(state[button.dataset.filter] === button.dataset.value));
    }
    byId("count").textContent = `${shown} of ${cards.length} shown`;
    byId("nothing").hidden = shown > 0;
  }

  function change(key, value) {
    state[key] = value;
    writeAddress();
    apply();
  }

  for (const button of buttons) {
    button.addEventListener("click", () => change(button.dataset.filter, button.dataset.value));
  }
  search.addEventListener("input", () => change("class", search.value));
  byId("reset").addEventListener("click", () => {
    for (const key of Object.keys(state)) state[key] = "";
    search.value = "";
    writeAddress();
    apply();
    search.focus();
  });
  byId("boxes").addEventListener("click", (event) => {
    const off = document.body.classList.toggle("no-boxes");
    event.currentTarget.setAttribute("aria-pressed", String(!off));
  });
  window.addEventListener("hashchange", () => {
    if (location.hash.includes("=") || !location.hash) { readAddress(); apply(); }
  });

  byId("filters").hidden = false;
  readAddress();
  apply();
})();
