// What the copy buttons give.
import { sentence } from "./elements.js";

export const altText = (description) => (description.caption ? sentence(description.caption.text) : "");

// An <img> of the picture. name: of its file or its address; every character that means something in HTML is escaped.
export function imageElement(description, name) {
  const isAddress = /^https?:/i.test(name);
  const source = isAddress ? name : encodeURIComponent(name || "picture.jpg");
  const { width, height } = description.picture;
  return `<img src="${escaped(source)}" alt="${escaped(altText(description))}" width="${width}" height="${height}">`;
}

export const asJson = (description) => JSON.stringify(description, null, 2);

function escaped(text) {
  const signs = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };
  return text.replace(/[&<>"']/g, (sign) => signs[sign]);
}

export async function copy(text) {
  if (navigator.clipboard?.writeText) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      // not allowed: the old way
    }
  }
  // Over plain http (other than loopback) there is no clipboard to write to but this one.
  const before = document.activeElement;
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "hidden";
  area.setAttribute("aria-hidden", "true");
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  before?.focus();
  return done;
}
