// Talks to the server; asks for the key where one is needed.

const KEY = "stlm-api-key";
const get = (id) => document.getElementById(id);
let asking = null;

export class Problem extends Error {
  constructor(status, detail, requestId) {
    super(detail);
    this.status = status;
    this.requestId = requestId;
  }
}

function askForKey(wrong) {
  asking ??= new Promise((resolve) => {
    const dialog = get("key-dialog");
    get("key-why").textContent = wrong
      ? "That key was not the right one. Try again."
      : "It is kept until this tab is closed.";
    get("key").value = "";
    dialog.addEventListener("close", () => {
      asking = null;
      sessionStorage.setItem(KEY, get("key").value);
      get("key").value = "";
      resolve();
    }, { once: true });
    // Without a key there is nothing to see here: Escape does not close it.
    dialog.oncancel = (event) => event.preventDefault();
    dialog.showModal();
  });
  return asking;
}

export async function call(path, options = {}) {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    if (key && !/^[!-~]+$/.test(key)) { // no header can hold it, and no server has such a key
      await askForKey(true);
      continue;
    }
    const headers = { ...options.headers, ...(key ? { "X-API-Key": key } : {}) };
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Problem(0, "The server does not answer. Is it running, and is the network there?", null);
    }
    if (response.status === 401) {
      await askForKey(Boolean(key));
      continue;
    }
    if (response.ok) return response;
    let told = {};
    try {
      told = await response.json();
    } catch { /* a proxy's own page */ }
    throw new Problem(response.status, told.detail ?? `The server answered ${response.status}.`, told.request_id ?? null);
  }
}

export const json = async (path, options) => (await call(path, options)).json();
export const blobUrl = async (path) => URL.createObjectURL(await (await call(path)).blob());
