// The service's interface (vivo/serve/page_api.py), and its errors in words for who has never heard of HTTP.
const KEY = "vivo-key"; // in sessionStorage: gone with the tab
const HEADER = "Ocp-Apim-Subscription-Key";
const TRIES = 4; // of a picture while the service is busy

// What the person is told. key: ask for one; again: the same picture may work later.
export class Trouble extends Error {
  constructor(title, text, { key = false, again = false, wait = 0 } = {}) {
    super(`${title} ${text}`.trim());
    Object.assign(this, { title, text, key, again, wait });
  }
}

export const keyInUse = () => sessionStorage.getItem(KEY) || "";
export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

// What the service is and takes.
export async function facts() {
  const answer = await send("api/service", {});
  if (!answer.ok) throw troubleOf(answer.status, {}, 0);
  return answer.json();
}

// What it says of a picture: a Blob, or {url}. One try; throws Trouble.
export async function describeOnce(picture, { words = true, signal } = {}) {
  const isAddress = !(picture instanceof Blob);
  const type = isAddress ? "application/json" : "application/octet-stream"; // it looks at the content itself
  const headers = { "Content-Type": type };
  if (keyInUse()) headers[HEADER] = keyInUse();
  const body = isAddress ? JSON.stringify({ url: picture.url }) : picture;
  const answer = await send(`api/describe${words ? "" : "?words=false"}`, { method: "POST", headers, body, signal });
  let content = {};
  try {
    content = await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
  if (!answer.ok) throw troubleOf(answer.status, content.error || {}, Number(answer.headers.get("Retry-After")) || 0);
  return content;
}

// The same; while the service is busy it waits as long as it is told to. waiting(seconds): tells the person.
export async function describe(picture, { signal, waiting }) {
  for (let tried = 1; ; tried++) {
    try {
      return await describeOnce(picture, { signal });
    } catch (error) {
      if (!(error instanceof Trouble) || !error.wait || tried === TRIES) throw error;
      waiting(error.wait);
      await pause(error.wait, signal);
    }
  }
}

export function pause(seconds, signal) {
  return new Promise((done, stop) => {
    const timer = setTimeout(done, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      stop(new DOMException("stopped", "AbortError"));
    });
  });
}

async function send(address, options) {
  try {
    return await fetch(address, { cache: "no-store", credentials: "omit", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble("The service cannot be reached.", "Is it still running, and are you online?", { again: true });
  }
}

function troubleOf(status, error, wait) {
  const code = error.innererror?.code || error.code || "", said = error.message || "";
  if (status === 401) {
    return keyInUse() ? new Trouble("This key is not accepted.", "Check it, or ask who runs the service.", { key: true })
                      : new Trouble("This service asks for a key.", "", { key: true });
  }
  if (status === 429) {
    return new Trouble("The service is busy.", "Many pictures are waiting. Try again in a moment.",
                       { again: true, wait: Math.min(30, wait || 2) });
  }
  if (status === 408 || code === "Timeout") {
    return new Trouble("That took too long.", "The picture did not arrive in time. Try again, or take a smaller one.",
                       { again: true });
  }
  const plain = {
    InvalidImageFormat: ["This file cannot be read as a picture.", "It may be damaged, or of a kind that is not taken."],
    InvalidImageSize: ["The size of this picture does not fit.", ""],
    InvalidImageUrl: ["The picture at this address could not be had.", ""],
  }[code];
  if (plain) return new Trouble(plain[0], plain[1] || said);
  if (status === 413) return new Trouble("This picture is too large.", said);
  if (status === 415) return new Trouble("This kind of picture is not taken.", said);
  if (status === 503) {
    return new Trouble("The service is not ready.", "It may be starting or stopping. Try again in a moment.",
                       { again: true, wait });
  }
  if (status >= 500) return new Trouble("The service has failed.", "Who runs it finds the reason in its log.", { again: true });
  return new Trouble("The service did not take this picture.", said);
}
