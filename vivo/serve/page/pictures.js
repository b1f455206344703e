// Pictures on their way in: out of a drop or the clipboard, and small enough to be sent.
import { Trouble } from "./service.js";

const SHRINK = 0.7; // of the sides, until the file is small enough
const QUALITY = 0.9;
const LARGEST = 4096; // pixels of a side of what is made here

// The pictures of a drop or a paste, and the address where there is none.
export function carried(transfer) {
  const files = [...transfer.files];
  const pictures = files.filter((file) => file.type.startsWith("image/"));
  const link = (transfer.getData("text/uri-list") || transfer.getData("text/plain")).split("\n")[0].trim();
  return { files: pictures.length ? pictures : files, url: /^https?:\/\/\S+$/i.test(link) ? link : "" };
}

// What is sent of a file: the file itself, or, where the service does not take it, a JPEG that the browser makes of it.
export async function prepared(file, { maxBytes, formats }) {
  if (!file.size) throw new Trouble("This file is empty.", "");
  const kind = (file.type.split("/")[1] || "").replace("x-ms-bmp", "bmp");
  const other = file.type && !file.type.startsWith("image/");
  const known = formats.map((name) => name.toLowerCase()).includes(kind) || !file.type;
  if (other) throw new Trouble(`${file.name || "This file"} is not a picture.`, `Taken are ${listed(formats)}.`);
  if (known && file.size <= maxBytes) return file;
  let image;
  try {
    image = await loaded(file);
  } catch {
    if (file.size <= maxBytes) return file; // the service says what is wrong with it
    const limit = `${Math.floor(maxBytes / 1024 / 1024)} MB`;
    throw new Trouble("This file is too large.", `The service takes ${limit}, and this browser cannot make it smaller.`);
  }
  let scale = Math.min(1, LARGEST / Math.max(image.naturalWidth, image.naturalHeight, 1));
  for (;; scale *= SHRINK) {
    const small = await drawn(image, scale * (image.naturalWidth || 1024), scale * (image.naturalHeight || 1024));
    if (small.size <= maxBytes) return small;
  }
}

// A JPEG of an image or of a video's present frame.
export function drawn(source, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(width));
  canvas.height = Math.max(1, Math.round(height));
  const context = canvas.getContext("2d", { alpha: false });
  context.fillStyle = "#fff"; // what is transparent
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return new Promise((done, fail) => {
    canvas.toBlob((blob) => (blob ? done(blob) : fail(new Error("no picture"))), "image/jpeg", QUALITY);
  });
}

async function loaded(file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } finally {
    URL.revokeObjectURL(image.src);
  }
  return image;
}

export function listed(formats) {
  const names = formats.map((name) => ({ Webp: "WebP" })[name] || name.toUpperCase());
  return `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`;
}
