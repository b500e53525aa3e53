// The picture with its heat map, the verdict and the gauge.

const get = (id) => document.getElementById(id);
const image = get("image"), heat = get("heat"), peak = get("peak"), stage = get("stage");
const digits = (value) => (value > 0 && value < 0.0005 ? "< 0.001" : value < 1 && value > 0.9995 ? "> 0.999" : value.toFixed(3));
let shown = null;
let ownUrl = null;

export function setOpacity() {
  const percent = get("opacity").value;
  heat.style.opacity = String(percent / 100);
  get("opacity-value").textContent = `${percent}%`;
}

export function setPeak() {
  peak.hidden = !(shown && get("show-peak").checked);
  if (!shown) return;
  peak.style.left = `${((shown.peak.x + 0.5) / shown.width) * 100}%`;
  peak.style.top = `${((shown.peak.y + 0.5) / shown.height) * 100}%`;
}

export function fit() {
  if (!shown) return;
  const scale = Math.min(stage.clientWidth / shown.width, stage.clientHeight / shown.height);
  image.style.width = `${Math.floor(shown.width * scale)}px`;
  image.style.height = `${Math.floor(shown.height * scale)}px`;
}

export function busy(text) {
  get("busy").hidden = !text;
  get("busy-text").textContent = text ?? "";
  stage.setAttribute("aria-busy", String(Boolean(text)));
}

export function showError(text) {
  get("error").hidden = !text;
  get("error-text").textContent = text ?? "";
}

function load(element, url) {
  return new Promise((resolve, reject) => {
    element.onload = () => resolve();
    element.onerror = () => reject(new Error("cannot be shown"));
    element.src = url;
  });
}

// `picture`: an address for the image; `fallback`: gives another if the browser cannot show that format.
export async function show(inspection, picture, heatMap, fallback) {
  if (ownUrl && ownUrl !== picture) URL.revokeObjectURL(ownUrl);
  ownUrl = picture.startsWith("blob:") ? picture : null;
  try {
    await load(image, picture);
  } catch {
    const other = fallback ? await fallback() : null;
    if (other) await load(image, other).catch(() => {});
  }
  await load(heat, heatMap).catch(() => {});
  shown = inspection;
  const words = inspection.is_anomalous ? "Anomalous" : "Normal";
  image.alt = `Inspected image of line ${inspection.line}: ${words.toLowerCase()}`;
  heat.alt = `Heat map, highest at ${inspection.peak.x}, ${inspection.peak.y}`;
  get("drop").hidden = true;
  get("picture").hidden = false;
  get("opacity").disabled = false;
  showError(null);
  fit();
  setOpacity();
  setPeak();
  verdict(inspection, words);
}

const CAMERA = { dark: "too dark", bright: "too bright", blurred: "out of focus", grainy: "too grainy" };

function verdict(inspection, words) {
  const { score, threshold } = inspection;
  get("verdict").dataset.verdict = inspection.verdict;
  get("word").textContent = words;
  get("reason").textContent = inspection.is_anomalous
    ? `Score ${digits(score)} is above the threshold ${digits(threshold)}: have this part looked at.`
    : `Score ${digits(score)} is not above the threshold ${digits(threshold)}.`;
  const { picture } = inspection, camera = get("camera");
  camera.hidden = picture.length === 0;
  camera.textContent = picture.length
    ? `The picture is not like the line's own: ${picture.map((each) => CAMERA[each]).join(", ")}. Look at the camera, too.`
    : "";
  const gauge = get("gauge"), needle = get("needle");
  gauge.setAttribute("aria-valuenow", String(score));
  gauge.setAttribute("aria-valuetext", `score ${digits(score)}, threshold ${digits(threshold)}, ${words.toLowerCase()}`);
  get("zone-normal").style.width = `${threshold * 100}%`;
  get("limit").style.left = `${threshold * 100}%`;
  get("threshold").textContent = digits(threshold);
  needle.hidden = false;
  needle.style.left = `${score * 100}%`;
  needle.dataset.edge = score < 0.06 ? "start" : score > 0.94 ? "end" : "middle";
  get("score").textContent = digits(score);
  get("fact-line").textContent = `${inspection.line}, version ${inspection.version}`;
  get("fact-size").textContent = `${inspection.width} × ${inspection.height} pixels`;
  get("fact-peak").textContent = `x ${inspection.peak.x}, y ${inspection.peak.y}`;
  get("fact-time").textContent = `${inspection.ms.total.toFixed(0)} ms, of that ${inspection.ms.inference.toFixed(0)} ms the network`;
  get("fact-request").textContent = inspection.request_id;
}

get("opacity").addEventListener("input", setOpacity);
get("show-peak").addEventListener("change", setPeak);
new ResizeObserver(fit).observe(stage);
