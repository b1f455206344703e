// The state of a page in its address (#domain=out&class=fox), so that a filtered view can be linked to.
"use strict";
// state: {name: text}, kept up to date by its owner; "" is left out of the address.
function addressOf(state) {
  return {
    read() {
      const given = new URLSearchParams(location.hash.slice(1));
      for (const key of Object.keys(state)) state[key] = given.get(key) || "";
    },
    write() {
      const kept = new URLSearchParams(Object.entries(state).filter(([, value]) => value));
      // replaceState: typing a word must not fill the history of the browser. An opaque origin may refuse it.
      try { history.replaceState(null, "", "#" + kept); } catch { /* the view works, it only has no address */ }
    },
    // again: called when somebody changes the address. A link to a section (#results) is no state.
    listen(again) {
      window.addEventListener("hashchange", () => {
        if (location.hash.includes("=") || !location.hash) { this.read(); again(); }
      });
    },
  };
}
