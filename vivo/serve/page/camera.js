// The camera, and the live description of what it sees.
import { drawn } from "./pictures.js";
import { Trouble, describeOnce, pause } from "./service.js";

const LIVE_SIDE = 640; // pixels of a frame's longer side: quick to send, more than a detector needs
const REST = 0.15; // seconds between two frames at the least
const FAILURES = 3; // in a row end the live description
const PATIENCE = 6; // frames of which no two in a row agree: then the last one is taken

export class Camera {
  // lost(): the camera was unplugged or taken away.
  constructor(video, lost) {
    Object.assign(this, { video, lost, stream: null, devices: [], asked: 0 });
  }
  get isOpen() { return this.stream !== null; }

  // Throws Trouble. Gives false where it was closed again before the person had allowed it.
  async open(device = "") {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Trouble("The camera cannot be used here.", "Browsers allow it only over https, or on the computer that runs the service.");
    }
    this.close();
    const asked = this.asked, size = { width: { ideal: 1280 }, height: { ideal: 960 } };
    const which = device ? { deviceId: { exact: device } } : { facingMode: "environment" };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: false, video: { ...which, ...size } });
    } catch (error) {
      throw troubleOf(error);
    }
    if (asked !== this.asked) {
      for (const track of stream.getTracks()) track.stop();
      return false;
    }
    this.stream = stream;
    stream.getVideoTracks()[0].addEventListener("ended", () => this.lost());
    this.video.srcObject = stream;
    await this.video.play();
    this.devices = (await navigator.mediaDevices.enumerateDevices()).filter(({ kind }) => kind === "videoinput");
    return true;
  }
  async turn() {
    const now = this.stream?.getVideoTracks()[0].getSettings().deviceId;
    const place = this.devices.findIndex(({ deviceId }) => deviceId === now);
    return this.open(this.devices[(place + 1) % this.devices.length].deviceId);
  }
  close() {
    this.asked += 1;
    for (const track of this.stream?.getTracks() || []) track.stop();
    this.video.srcObject = this.stream = null;
  }
  // What it sees now, as a JPEG.
  frame(side = Infinity) {
    const { videoWidth: width, videoHeight: height } = this.video;
    const scale = Math.min(1, side / Math.max(width, height));
    return drawn(this.video, scale * width, scale * height);
  }
}

// Captions that flicker are no help: another one counts when two frames in a row agree on it.
export class Steady {
  constructor() { Object.assign(this, { text: null, next: null, unlike: 0 }); }
  // Whether this text, of the newest frame, is now the one to show.
  take(text) {
    if (text === this.text) {
      this.next = null;
      this.unlike = 0;
      return false;
    }
    this.unlike += 1;
    const settled = this.text === null || text === this.next || this.unlike >= PATIENCE;
    this.next = text;
    if (settled) Object.assign(this, { text, next: null, unlike: 0 });
    return settled;
  }
}

export class Live {
  // seen(description, changed, seconds): of each frame; ended(trouble): it stopped by itself.
  constructor(camera, { seen, ended }) {
    Object.assign(this, { camera, seen, ended, running: null });
  }
  get isOn() { return this.running !== null; }

  start() {
    this.stop();
    this.running = new AbortController();
    this.run(this.running.signal);
  }
  stop() {
    this.running?.abort();
    this.running = null;
    this.awake?.release().catch(() => {});
    this.awake = null;
  }
  async run(signal) {
    const steady = new Steady();
    let failed = 0;
    navigator.wakeLock?.request("screen").then((lock) => {
      if (signal.aborted) lock.release();
      else this.awake = lock;
    }, () => {}); // a phone that is held still must not fall asleep; where that is not to be had, it does
    while (!signal.aborted) {
      const begun = performance.now();
      let rest = REST;
      try {
        const description = await describeOnce(await this.camera.frame(LIVE_SIDE), { words: false, signal });
        if (signal.aborted) return;
        failed = 0;
        this.seen(description, steady.take(description.caption?.text ?? ""), (performance.now() - begun) / 1000);
      } catch (error) {
        if (signal.aborted) return;
        if (error.wait) rest = error.wait; // busy: this frame is left out
        else if (error.key || ++failed === FAILURES) {
          this.stop();
          this.ended(error instanceof Trouble ? error : new Trouble("The live description has stopped.", error.message));
          return;
        } else rest = 1;
      }
      try {
        await pause(rest, signal);
      } catch {
        return;
      }
    }
  }
}

function troubleOf(error) {
  const said = {
    NotAllowedError: ["The camera is not allowed.", "Allow it for this page in the browser's settings, then try again."],
    NotFoundError: ["No camera was found.", "Choose a picture instead, or connect a camera."],
    OverconstrainedError: ["No such camera was found.", "Choose a picture instead, or connect a camera."],
    NotReadableError: ["The camera does not start.", "Another program may be using it."],
  }[error.name] || ["The camera does not start.", error.message];
  return new Trouble(...said);
}
