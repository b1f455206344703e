// The page: ways in for a picture, what is shown when, and what is said to whom.
import { Camera, Live } from "./camera.js";
import { announce, find, make, sentence } from "./elements.js";
import { carried, prepared } from "./pictures.js";
import { Trouble, describe, facts, keyInUse, useKey } from "./service.js";
import { View, drawBoxes, spoken, sureness } from "./view.js";

const TITLE = document.title;
const camera = new Camera(find("video"), () => {
  closeCamera();
  tell(new Trouble("The camera is gone.", "It was unplugged or taken by another program."));
});
const live = new Live(camera, { seen, ended: (trouble) => { showLive(false); tell(trouble, goLive); } });
let service = null; // what GET /api/service says
let work = null; // AbortController of the picture being described
let last = null; // {picture: File or {url}, name}: for "Try again"
let afterKey = null; // what goes on once the key is there that was asked for

// empty, busy, done, failed, camera, live: page.css shows what belongs to it.
function setState(state) {
  document.body.dataset.state = state;
  const watching = state === "camera" || state === "live";
  find("work").hidden = state === "empty";
  find("busy").hidden = state !== "busy";
  find("video").hidden = find("controls").hidden = !watching;
  find("shown").hidden = !["done", "live"].includes(state) || !find("boxes").childElementCount;
  find("badge").hidden = state !== "live";
  find("result").setAttribute("aria-busy", String(state === "busy"));
  if (watching) find("picture").hidden = find("unseen").hidden = true;
}

function clearFound() {
  find("found").replaceChildren();
  find("boxes").replaceChildren();
  document.title = TITLE;
}

// A picture on its way in: a file, or {url}.
async function take(picture, name = picture.name || picture.url || "") {
  work?.abort();
  work = new AbortController();
  const { signal } = work;
  last = { picture, name };
  closeCamera();
  hideTrouble();
  clearFound();
  setState("busy");
  announce("Looking at the picture");
  const isSeen = showPicture(picture);
  try {
    service ||= await facts();
    if (service.keyNeeded && !keyInUse()) throw new Trouble("This service asks for a key.", "", { key: true });
    const sent = picture instanceof Blob ? await prepared(picture, service) : picture;
    const waiting = (seconds) => tell(new Trouble("The service is busy.", `Trying again in ${seconds} s.`));
    const description = await describe(sent, { signal, waiting });
    await isSeen;
    if (signal.aborted) return;
    hideTrouble();
    setShape(description.picture.width, description.picture.height);
    new View(description, name);
    setState("done");
    document.title = `${description.caption ? sentence(description.caption.text) : "No description detected."} – vivo`;
    announce(spoken(description));
  } catch (error) {
    if (signal.aborted) return;
    setState((await isSeen) ? "failed" : "empty");
    announce("");
    tell(error, retry);
  }
}

const retry = () => last && take(last.picture, last.name);

// Whether the browser can show it.
async function showPicture(picture) {
  const image = find("picture"), isAddress = !(picture instanceof Blob);
  URL.revokeObjectURL(image.src);
  image.hidden = true;
  find("unseen").hidden = !isAddress;
  setShape(4, 3);
  if (isAddress) return true;
  image.src = URL.createObjectURL(picture);
  try {
    await image.decode();
  } catch {
    return false;
  }
  if (last.picture !== picture) return false;
  setShape(image.naturalWidth, image.naturalHeight);
  image.hidden = false;
  return true;
}

// The stage takes the picture's shape, as large as the window has room for.
function setShape(width, height) {
  const { style } = find("shot");
  style.setProperty("--shape", String(width / height));
}

// Trouble. An error that is none of ours is a bug, and said as one.
// goOn(): what a key that is given lets go on.
function tell(error, goOn = null) {
  const trouble = error instanceof Trouble ? error : new Trouble("The page has failed.", error.message, { again: true });
  if (trouble.key) return askForKey(trouble, goOn);
  find("trouble-text").replaceChildren(make("b", {}, trouble.title), " ", trouble.text);
  find("again").hidden = !trouble.again || !last;
  find("trouble").hidden = false;
}
function hideTrouble() {
  find("trouble").hidden = true;
  find("trouble-text").replaceChildren();
}

function askForKey({ title, text }, goOn) {
  afterKey = goOn;
  find("key-title").textContent = title;
  find("key-why").textContent = text || "Whoever runs it can give you one. It is kept in this tab only, until you close it.";
  find("key").hidden = false;
  find("key-dialog").showModal();
}
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const key = find("key-text").value.trim();
  useKey(/^[\x21-\x7e]*$/.test(key) ? key : ""); // a header carries no other characters
  find("key-text").value = "";
  find("key-dialog").close("used");
});
find("key-cancel").addEventListener("click", () => find("key-dialog").close());
find("key-dialog").addEventListener("close", () => {
  const { returnValue } = find("key-dialog");
  find("key-dialog").returnValue = "";
  if (returnValue === "used") afterKey?.();
  else if (afterKey && !keyInUse()) tell(new Trouble("This service asks for a key.", "Without one it describes nothing.", { again: true }));
});
find("key").addEventListener("click", () => {
  const text = keyInUse() ? "Another key replaces the one in use; an empty field forgets it." : "";
  askForKey({ title: "Key of this service", text }, document.body.dataset.state === "failed" ? retry : null);
});

find("again").addEventListener("click", () => {
  retry();
  find("choose").focus(); // the button that had the focus is gone
});
find("dismiss").addEventListener("click", () => {
  hideTrouble();
  find("choose").focus();
});

// Ways in: choose, drop, paste, an address.
find("choose").addEventListener("click", () => find("file").click());
for (const id of ["file", "photograph"]) {
  find(id).addEventListener("change", ({ target }) => {
    const [file] = target.files;
    target.value = ""; // the same file may be chosen again
    if (file) take(file);
  });
}
function takeCarried({ files, url }) {
  if (files.length) take(files[0]);
  else if (url && service?.urls) take({ url });
  else if (url) tell(new Trouble("This is an address and not a picture.", "This service takes no addresses: save the picture and choose the file."));
  else return false;
  return true;
}
const isInDialog = () => find("key-dialog").open;
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
addEventListener("drop", (event) => {
  event.preventDefault(); // or the browser leaves the page for the picture
  document.body.classList.remove("dragging");
  if (!isInDialog() && !takeCarried(carried(event.dataTransfer))) tell(new Trouble("There is no picture in this.", "Drop a picture's file."));
});
addEventListener("paste", (event) => {
  const found = carried(event.clipboardData);
  if (isInDialog() || (event.target instanceof HTMLInputElement && !found.files.length)) return;
  event.preventDefault();
  if (!takeCarried(found)) tell(new Trouble("There is no picture in the clipboard.", "Copy a picture first."));
});
find("paste").hidden = !navigator.clipboard?.read;
find("paste").addEventListener("click", async () => {
  try {
    for (const item of await navigator.clipboard.read()) {
      const type = item.types.find((name) => name.startsWith("image/"));
      if (type) return take(await item.getType(type), `picture.${type.slice(6)}`);
    }
    const url = (await navigator.clipboard.readText()).trim();
    if (!takeCarried({ files: [], url: /^https?:\/\/\S+$/i.test(url) ? url : "" })) throw new Error("none");
  } catch (error) {
    const [title, text] = error.name === "NotAllowedError"
      ? ["The browser did not allow pasting.", "Allow it, or paste with Ctrl V."] : ["There is no picture in the clipboard.", "Copy a picture first."];
    tell(new Trouble(title, text));
  }
});
find("address").addEventListener("submit", (event) => {
  event.preventDefault();
  const url = find("url").value.trim();
  if (/^https?:\/\/\S+$/i.test(url)) return take({ url });
  tell(new Trouble("This is no address of a picture.", "It begins with https:// or http://."));
});

// The camera.
find("camera").addEventListener("click", async () => {
  if (!navigator.mediaDevices && matchMedia("(pointer: coarse)").matches) return find("photograph").click(); // the phone's own
  hideTrouble();
  try {
    if (!(await camera.open())) return;
  } catch (error) {
    return tell(error);
  }
  work?.abort();
  clearFound();
  find("found").append(make("p", { class: "note" }, "Take a picture to learn all about it, or turn the live description on: it says what"
    + " the camera sees, and says it again when that changes."));
  showCamera();
  find("shoot").focus();
});
function showCamera() {
  const { videoWidth, videoHeight } = find("video");
  setShape(videoWidth || 4, videoHeight || 3);
  find("turn").hidden = camera.devices.length < 2;
  setState(live.isOn ? "live" : "camera");
}
// A phone that is turned; the first size comes before the camera is ready, and is no turn.
find("video").addEventListener("resize", () => ["camera", "live"].includes(document.body.dataset.state) && showCamera());
function closeCamera() {
  const wasOpen = camera.isOpen;
  live.stop();
  camera.close();
  showPressed(false);
  if (!wasOpen) return;
  clearFound();
  setState("empty");
}
find("off").addEventListener("click", () => {
  closeCamera();
  find("camera").focus();
});
find("shoot").addEventListener("click", async () => {
  const photograph = new File([await camera.frame()], "photograph.jpg", { type: "image/jpeg" });
  take(photograph);
  find("camera").focus();
});
find("turn").addEventListener("click", async () => {
  try {
    if (await camera.turn()) showCamera();
  } catch (error) {
    closeCamera();
    tell(error);
  }
});

// The live description.
const earlier = [];
const showPressed = (on) => find("live").setAttribute("aria-pressed", String(on));
function showLive(on) {
  showPressed(on);
  if (camera.isOpen) setState(on ? "live" : "camera");
  if (!on) find("boxes").replaceChildren();
}
find("live").addEventListener("click", () => {
  hideTrouble();
  if (!live.isOn) return goLive();
  live.stop();
  showLive(false);
  announce("Live description is off");
});
async function goLive() {
  try {
    service ||= await facts();
    if (service.keyNeeded && !keyInUse()) throw new Trouble("This service asks for a key.", "", { key: true });
  } catch (error) {
    return tell(error, goLive);
  }
  if (!camera.isOpen) return;
  earlier.length = 0;
  clearFound();
  announce("Live description is on");
  live.start();
  showLive(true);
}
function seen(description, changed, seconds) {
  drawBoxes(description.regions);
  setState("live");
  find("badge").textContent = `Live, ${seconds.toFixed(1)} s`;
  const { caption, model } = description;
  const { words, number } = caption ? sureness(caption.confidence, model.calibrated) : { words: "", number: "" };
  if (!changed) {
    if (caption && caption.text === earlier[0]) find("found").querySelector(".sure")?.replaceChildren(make("b", {}, words), number);
    return;
  }
  const text = caption ? sentence(caption.text) : "No description detected.";
  const before = earlier.slice(0, 4).map((one) => make("li", {}, sentence(one)));
  find("found").replaceChildren(make("p", { class: "caption" }, text), make("p", { class: "sure" }, make("b", {}, words), number),
    before.length ? make("section", {}, make("h3", {}, "Before"), make("ol", { class: "before" }, before)) : "");
  earlier.unshift(caption?.text ?? "No description detected.");
  announce(text);
}
document.addEventListener("visibilitychange", () => {
  if (!document.hidden || !camera.isOpen) return;
  closeCamera(); // nobody looks, so nothing is filmed
  tell(new Trouble("The camera was closed.", "It films only while this page is to be seen."));
});

find("show").addEventListener("change", ({ target }) => document.body.classList.toggle("no-boxes", !target.checked));
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || isInDialog()) return;
  if (camera.isOpen) find("off").click();
  else if (!find("trouble").hidden) find("dismiss").click();
  else if (document.activeElement.matches(".word, .entry")) document.activeElement.blur();
});

try {
  service = await facts();
  const { model, keyNeeded, urls } = service;
  find("key").hidden = !keyNeeded;
  find("address").hidden = !urls;
  find("model").textContent = `Model ${model.name} of ${model.version}${model.calibrated ? "" : ", whose confidence is not calibrated"}.`;
} catch (error) {
  tell(error);
}
document.body.dataset.ready = "";
