// Drop files, watch pages appear. Talks to /v1/files and /v1/ocr/jobs like any other client.

const $ = (id) => document.getElementById(id);
const ENDED = ["success", "failure", "cancelled"];
const WORDS = { pending: "waits", started: "is read", success: "done", failure: "failed",
  cancelled: "cancelled" };
const PAGES_AT_ONCE = 20;
const REQUESTS_AT_ONCE = 3;

const documents = new Map(); // job id -> {name, job, pages: Map(number -> page), numbers}
let shown = null;
let about = {};

function say(text) { $("trouble").textContent = text; }

function headers() {
  const key = $("key").value.trim();
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function ask(path, options = {}) {
  const answer = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  throw new Error(said.message || `the server answered with status ${answer.status}`);
}

// From 1, as people count -> from 0, as /v1/ocr counts.
function pageRange(text) {
  const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
  if (!parts.length) return null;
  return parts.map((part) => {
    const match = /^([1-9]\d{0,6})(?:-([1-9]\d{0,6}))?$/.exec(part);
    if (!match) throw new Error(`"${part}" is no range of pages; write for example 1-3,7`);
    return match[2] ? `${match[1] - 1}-${match[2] - 1}` : `${match[1] - 1}`;
  }).join(",");
}

async function send(file) {
  if (file.size > about.max_file_bytes) throw new Error(`${file.name} is too large`);
  const pages = pageRange($("range").value);
  const form = new FormData();
  form.append("purpose", "ocr");
  form.append("file", file, file.name);
  const stored = await (await ask("/v1/files", { method: "POST", body: form })).json();
  const body = { document: { type: "file", file_id: stored.id }, task: $("task").value,
    mode: $("mode").value || null, pages };
  const answer = await ask("/v1/ocr/jobs", { method: "POST", body: JSON.stringify(body),
    headers: { "Content-Type": "application/json" } });
  add(file.name, await answer.json());
}

async function sendAll(files) {
  say("");
  for (const file of files) {
    try { await send(file); } catch (error) { say(`${file.name}: ${error.message}`); }
  }
}

function add(name, job) {
  const entry = { name, job, pages: new Map(), total: 0 };
  documents.set(job.id, entry);
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  for (const part of ["name", "state"]) {
    const span = document.createElement("span");
    span.className = part;
    button.append(span);
  }
  button.addEventListener("click", () => show(job.id, true));
  item.append(button);
  $("jobs").prepend(item);
  $("no-jobs").hidden = true;
  entry.button = button;
  describe(entry);
  if (!shown || ENDED.includes(documents.get(shown).job.status)) show(job.id, false);
  watch(job.id);
}

function describe(entry) {
  const { job, name, button } = entry;
  const total = job.pages_total;
  const count = total ? ` ${job.pages_done} of ${total} pages` : "";
  button.querySelector(".name").textContent = name;
  button.querySelector(".state").textContent = WORDS[job.status] + (count && `,${count}`);
  if (shown !== job.id) return;
  $("fate").textContent = job.error || `${WORDS[job.status]}${count && `:${count}`}`;
  $("progress").max = total || 1;
  $("progress").value = ENDED.includes(job.status) ? total || 1 : job.pages_done;
  $("progress").hidden = ENDED.includes(job.status);
  $("downloads").hidden = job.status !== "success";
}

async function watch(id) {
  const entry = documents.get(id);
  while (!ENDED.includes(entry.job.status)) {
    try {
      const answer = await ask(`/v1/ocr/jobs/${id}?since=${entry.job.pages_done}&wait=10`);
      entry.job = await answer.json();
      await takePages(entry);
    } catch (error) {
      say(`${entry.name}: ${error.message}; trying again`);
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
    describe(entry);
  }
  if (entry.job.status === "success") await takeRest(entry);
  describe(entry);
}

// Numbers from 1 of the pages of a job; `pages` is as /v1/ocr takes it, from 0.
function pageNumbers({ pages, pages_total: total }) {
  if (pages === null) return Array.from({ length: total || 0 }, (_, i) => i + 1);
  const parts = Array.isArray(pages) ? pages : pages.split(",");
  return parts.flatMap((part) => {
    const [first, last = first] = `${part}`.split("-").map(Number);
    return Array.from({ length: last - first + 1 }, (_, i) => first + i + 1);
  });
}

// Pages may be done in any order, nearly in theirs: the first missing ones are asked for again.
async function takePages(entry, everything = false) {
  const missing = pageNumbers(entry.job).filter((number) => !entry.pages.has(number));
  const end = everything ? missing.length : PAGES_AT_ONCE * REQUESTS_AT_ONCE;
  for (let i = 0; i < Math.min(end, missing.length); i += PAGES_AT_ONCE) {
    const query = missing.slice(i, i + PAGES_AT_ONCE).map((n) => `numbers=${n}`).join("&");
    const answer = await (await ask(`/v1/ocr/jobs/${entry.job.id}/pages?${query}`)).json();
    for (const page of answer.data) takePage(entry, page);
  }
}

function takePage(entry, page) {
  entry.pages.set(page.number, page);
  if (shown === entry.job.id) draw(entry, page);
}

// What could not be read has no page of its own: the answer says why.
async function takeRest(entry) {
  await takePages(entry, true);
  const answer = await (await ask(`/v1/ocr/jobs/${entry.job.id}/result`)).json();
  for (const page of answer.pages) {
    const number = page.index + 1;
    if (entry.pages.has(number)) continue;
    const note = document.createElement("p");
    note.className = "note";
    note.textContent = page.reason || page.status;
    takePage(entry, { number, status: page.status, html: note.outerHTML, boxes: [] });
  }
}

function show(id, focus) {
  shown = id;
  const entry = documents.get(id);
  $("document").hidden = false;
  $("document-title").textContent = entry.name;
  $("pages").replaceChildren();
  for (const other of documents.values()) {
    other.button.setAttribute("aria-current", String(other === entry));
  }
  for (const number of [...entry.pages.keys()].sort((a, b) => a - b)) {
    draw(entry, entry.pages.get(number));
  }
  describe(entry);
  if (focus) $("document-title").focus();
}

function draw(entry, page) {
  const article = $("page").content.cloneNode(true).firstElementChild;
  article.dataset.number = page.number;
  article.querySelector("h3").textContent =
    `Page ${page.number}${page.status === "ok" ? "" : ` (${page.status})`}`;
  article.querySelector(".text").innerHTML = page.html; // made and cleaned by the server
  const svg = article.querySelector("svg");
  for (const { block, label, color, box } of page.boxes) {
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const [x1, y1, x2, y2] = box;
    Object.entries({ x: x1, y: y1, width: x2 - x1, height: y2 - y1, fill: color, stroke: color })
      .forEach(([name, value]) => rect.setAttribute(name, value));
    rect.dataset.block = block;
    const title = document.createElementNS("http://www.w3.org/2000/svg", "title");
    title.textContent = label || "";
    rect.append(title);
    svg.append(rect);
  }
  picture(entry, page, article.querySelector("img"));
  const later = [...$("pages").children].find((other) => +other.dataset.number > page.number);
  $("pages").insertBefore(article, later || null);
}

async function picture(entry, page, img) {
  img.alt = `Picture of page ${page.number}`;
  if (page.width) { img.width = page.width; img.height = page.height; }
  try {
    const answer = await ask(`/v1/ocr/jobs/${entry.job.id}/pages/${page.number}/image`);
    img.src = URL.createObjectURL(await answer.blob());
  } catch { img.closest(".picture").hidden = true; }
}

async function download(name) {
  const entry = documents.get(shown);
  try {
    const answer = await ask(`/v1/ocr/jobs/${shown}/download/${name}`);
    const link = document.createElement("a");
    const file = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition"));
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `${entry.name}${file ? file[1].replace("document", "") : ""}`;
    link.click();
    URL.revokeObjectURL(link.href);
  } catch (error) { say(error.message); }
}

function light(event) {
  const name = event.target.closest?.("[data-block]")?.dataset.block;
  document.querySelectorAll(".lit").forEach((element) => element.classList.remove("lit"));
  if (!name) return;
  document.querySelectorAll(`[data-block="${CSS.escape(name)}"]`)
    .forEach((element) => element.classList.add("lit"));
}

async function loadJobs() {
  const answer = await (await ask("/v1/ocr/jobs?limit=50")).json();
  for (const job of answer.data.reverse()) add(job.filename || job.id, job);
}

async function begin() {
  about = await (await fetch("/web/settings/about.json")).json();
  $("model").textContent = about.model;
  for (const [id, values] of [["task", about.tasks], ["mode", about.modes]]) {
    for (const value of values) $(id).append(new Option(value, value));
  }
  for (const name of about.formats) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-label", `Download as ${name}`);
    button.addEventListener("click", () => download(name));
    $("downloads").append(button);
  }
  $("key-field").hidden = !about.needs_key;
  if (!about.needs_key) await loadJobs();
  else $("key").addEventListener("change", () => loadJobs().catch((e) => say(e.message)));
}

$("files").addEventListener("change", (event) => {
  sendAll([...event.target.files]);
  event.target.value = "";
});
for (const name of ["dragenter", "dragover"]) {
  $("drop").addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
}
for (const name of ["dragleave", "drop"]) {
  $("drop").addEventListener(name, () => $("drop").classList.remove("over"));
}
$("drop").addEventListener("drop", (event) => {
  event.preventDefault();
  sendAll([...event.dataTransfer.files]);
});
$("upload").addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("mouseover", light);
document.addEventListener("focusin", light);
begin().catch((error) => say(error.message));
