// The inspection page: images in by choosing, dropping or pasting; what the server says of them out.

import { blobUrl, json } from "./api.js";
import * as recent from "./recent.js";
import { busy, show, showError } from "./viewer.js";

const POLL_MS = 5000;
const LINE = "stlm-line";
const get = (id) => document.getElementById(id);
const select = get("line"), stage = get("stage"), file = get("file");
let status = null;
let queue = Promise.resolve();

function since(text) {
  return new Date(text).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

function showStatus() {
  const names = status.lines.map((line) => line.line);
  if ([...select.options].map((option) => option.value).join() !== names.join()) {
    const asked = new URLSearchParams(location.search).get("line");
    const chosen = select.value || asked || localStorage.getItem(LINE);
    select.replaceChildren(...names.map((name) => new Option(name, name)));
    if (names.includes(chosen)) select.value = chosen;
  }
  select.disabled = names.length === 0;
  const line = status.lines.find((each) => each.line === select.value);
  const chip = get("model"), notice = get("notice");
  const trouble = line?.last_error ?? status.source.error;
  if (!line?.ready) {
    chip.textContent = "no model in service";
    chip.dataset.state = "down";
  } else {
    chip.textContent = `version ${line.version} · in service here since ${since(line.loaded_at)}`;
    chip.dataset.state = trouble ? "stale" : "ready";
  }
  get("in-service").hidden = !line?.ready;
  if (line?.ready) showModel(line);
  const told = line?.ready && trouble && !line.last_error
    ? `The registry does not answer; version ${line.version} stays in service. ${trouble}` : trouble;
  if (notice.textContent !== (told ?? "")) notice.textContent = told ?? "";
  notice.hidden = !told;
  const { upload_bytes: bytes, pixels } = status.limits;
  get("takes").textContent = `PNG, JPEG, BMP, TIFF or WebP, up to ${Math.floor(bytes / 1048576)} MiB and ${Math.floor(pixels / 1e6)} megapixels`;
}

function showModel(line) {
  const { promoted_at: at, promoted_by: by, image_auroc: auroc, recall_at_budget: recall } = line.model;
  const percent = (text) => `${(Number(text) * 100).toFixed(1)}%`;
  const facts = [
    ["Version", line.version],
    ["Promoted", at && `${since(at)}${by ? ` by ${by}` : ""}`],
    ["Image AUROC, test images", auroc && percent(auroc)],
    ["Defective parts found", recall && percent(recall)],
    ["Hash of the file", `${line.sha256.slice(0, 16)} …`],
  ];
  get("in-service-facts").replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) => {
    const row = document.createElement("div"), term = document.createElement("dt"), text = document.createElement("dd");
    term.textContent = name;
    text.textContent = value;
    row.append(term, text);
    return row;
  }));
}

async function refresh() {
  try {
    status = await json("v1/lines");
    showStatus();
    await recent.refresh();
  } catch (error) {
    get("model").textContent = "the server does not answer";
    get("model").dataset.state = "down";
    if (!status) showError(error.message);
  }
}

async function inspect(image, place) {
  if (!select.value) throw new Error("No line is in service.");
  if (status && image.size > status.limits.upload_bytes) {
    throw new Error(`The file has ${(image.size / 1048576).toFixed(1)} MiB, more than this server takes.`);
  }
  busy(place ? `Inspecting ${place} …` : "Inspecting …");
  const type = image.type.startsWith("image/") ? image.type : "application/octet-stream";
  const found = await json(`v1/lines/${encodeURIComponent(select.value)}/inspect?heat_map=true`, {
    method: "POST", body: image, headers: { "Content-Type": type },
  });
  const kept = found.heat_map_url !== null;
  await show(found, URL.createObjectURL(image), `data:image/png;base64,${found.heat_map}`,
    kept ? () => blobUrl(`v1/recent/${encodeURIComponent(found.id)}/image.jpg`) : null);
  recent.mark(found.id);
  if (kept) await recent.refresh();
}

function take(files) {
  const images = [...files];
  images.forEach((image, index) => {
    queue = queue.then(async () => {
      try {
        await inspect(image, images.length > 1 ? `${index + 1} of ${images.length}` : null);
      } catch (error) {
        const id = error.requestId ? ` (request ${error.requestId})` : "";
        showError(`${image.name || "The pasted image"}: ${error.message}${id}`);
      } finally {
        busy(null);
      }
    });
  });
}

async function again(inspection) {
  const path = `v1/recent/${encodeURIComponent(inspection.id)}`;
  try {
    const [picture, heatMap] = await Promise.all([blobUrl(`${path}/image.jpg`), blobUrl(`${path}/heat-map.png`)]);
    await show(inspection, picture, heatMap, null);
    URL.revokeObjectURL(heatMap);
    recent.mark(inspection.id);
    stage.scrollIntoView({ block: "nearest" });
  } catch (error) {
    showError(error.message);
    await recent.refresh().catch(() => {});
  }
}

recent.whenChosen(again);
select.addEventListener("change", () => {
  localStorage.setItem(LINE, select.value);
  showStatus();
});
file.addEventListener("change", () => {
  take(file.files);
  file.value = "";
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])].filter((each) => each.type.startsWith("image/"));
  if (files.length) take(files);
});
for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) stage.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  if (event.dataTransfer?.files.length) take(event.dataTransfer.files);
});

async function keepUp() {
  if (!document.hidden) await refresh();
  setTimeout(keepUp, POLL_MS);
}

document.addEventListener("visibilitychange", () => !document.hidden && refresh());
keepUp();
