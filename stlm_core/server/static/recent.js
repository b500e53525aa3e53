// The last images of all callers: the newest first, a click shows one again.

import { blobUrl, call, json } from "./api.js";

const get = (id) => document.getElementById(id);
const list = get("recent");
const thumbnails = new Map();
let current = null;
let onChoose = () => {};

export function whenChosen(handler) {
  onChoose = handler;
}

export function mark(id) {
  current = id;
  for (const button of list.querySelectorAll("button")) {
    button.setAttribute("aria-current", String(button.dataset.id === id));
  }
}

function clock(text) {
  return new Date(text).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
}

function entry(inspection) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  const thumbnail = document.createElement("img");
  const tag = document.createElement("span");
  const more = document.createElement("span");
  const when = document.createElement("span");
  button.type = "button";
  button.dataset.id = inspection.id;
  button.setAttribute("aria-current", String(inspection.id === current));
  thumbnail.className = "thumb";
  thumbnail.alt = "";
  tag.className = "tag";
  tag.dataset.verdict = inspection.verdict;
  tag.textContent = inspection.is_anomalous ? "Anomalous" : "Normal";
  more.className = "more";
  more.textContent = `${inspection.score.toFixed(3)} · ${inspection.line}`;
  when.className = "more when";
  when.textContent = clock(inspection.inspected_at);
  button.append(thumbnail, tag, more, when);
  button.addEventListener("click", () => onChoose(inspection));
  item.append(button);
  thumbnails.get(inspection.id)?.then((url) => { thumbnail.src = url; }).catch(() => {});
  return item;
}

export async function refresh() {
  const { kept, inspections } = await json("v1/recent");
  get("recent-note").textContent = kept === 0
    ? "This server keeps none."
    : inspections.length === 0 ? "Nothing inspected yet." : `of all callers, ${kept} at most, in memory only`;
  get("forget").hidden = inspections.length === 0;
  const ids = new Set(inspections.map((each) => each.id));
  for (const [id, url] of thumbnails) {
    if (!ids.has(id)) {
      thumbnails.delete(id);
      url.then((address) => URL.revokeObjectURL(address)).catch(() => {});
    }
  }
  for (const { id } of inspections) {
    if (!thumbnails.has(id)) thumbnails.set(id, blobUrl(`v1/recent/${encodeURIComponent(id)}/thumbnail.jpg`));
  }
  const before = [...list.querySelectorAll("button")].map((button) => button.dataset.id).join();
  if (before === inspections.map((each) => each.id).join()) return;
  const focused = document.activeElement?.dataset?.id;
  list.replaceChildren(...inspections.map(entry));
  if (focused) [...list.querySelectorAll("button")].find((button) => button.dataset.id === focused)?.focus();
}

get("forget").addEventListener("click", async () => {
  await call("v1/recent", { method: "DELETE" });
  await refresh();
});
