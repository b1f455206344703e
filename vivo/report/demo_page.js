// Filters of the gallery. Without this script the page shows all pictures and loses nothing else.
// The state lives in the address (address.js).
(() => {
  const byId = (id) => document.getElementById(id);
  const cards = [...document.querySelectorAll(".card")];
  const groups = [...document.querySelectorAll(".group[data-group]")];
  const buttons = [...document.querySelectorAll("button[data-filter]")];
  const search = byId("search");
  const state = { domain: "", outcome: "", class: "" };
  const address = addressOf(state);

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
    address.write();
    apply();
  }

  for (const button of buttons) {
    button.addEventListener("click", () => change(button.dataset.filter, button.dataset.value));
  }
  search.addEventListener("input", () => change("class", search.value));
  byId("reset").addEventListener("click", () => {
    for (const key of Object.keys(state)) state[key] = "";
    search.value = "";
    address.write();
    apply();
    search.focus();
  });
  byId("boxes").addEventListener("click", (event) => {
    const off = document.body.classList.toggle("no-boxes");
    event.currentTarget.setAttribute("aria-pressed", String(!off));
  });
  const show = () => { search.value = state.class; apply(); };
  address.listen(show);

  byId("filters").hidden = false;
  address.read();
  show();
})();
