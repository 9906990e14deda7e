/** The page: what visitors choose, the answer for one study, and the worklist. Texts reach it as text only. */

import { answerStudy } from "./study.js";

const MAX_VIEWS = 16; // of one study
const SIGNS = { suspected: "▲", uncertain: "◐", low: "○", withheld: "⊘", failed: "✕" };
const WORDS = {
  suspected: "suspected", uncertain: "uncertain", low: "not flagged", withheld: "not answered", failed: "not read",
};

const find = (id) => document.getElementById(id);
const page = await (await fetch("page.json")).json();
const { study } = page;
let reader; // of calls to the worker; null until the model is ready
let current = null; // the study on the page
let newest = 0; // number of the newest request

/** An element; strings among the children become text, never HTML. */
function element(tag, properties = {}, ...children) {
  const found = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in found) found[name] = value;
    else found.setAttribute(name, value);
  }
  found.append(...children.filter((child) => child !== null && child !== undefined));
  return found;
}

const paragraph = (text, className = "") => element("p", { className }, text);
const percent = (share) => `${(100 * share).toPrecision(2).replace(/\.0$/, "")} %`;
const chance = (value) => (value < 0.005 ? "below 0.01" : value < 0.995 ? value.toFixed(2) : "above 0.99");
const article = (noun) => `${/^[aeiou]/.test(noun) ? "an" : "a"} ${noun}`;
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function startWorker() {
  const worker = new Worker("reader.js", { type: "module" });
  const waiting = new Map();
  let count = 0;
  worker.onmessage = ({ data: { id, result, error, progress } }) => {
    if (progress) return showDownload(progress);
    const { resolve, reject } = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) resolve(result);
    else reject(new Error(error));
  };
  worker.onerror = (event) => waiting.forEach(({ reject }) => reject(new Error(event.message || "the worker failed")));
  return (call, values) =>
    new Promise((resolve, reject) => {
      waiting.set(++count, { resolve, reject });
      worker.postMessage({ call, id: count, ...values });
    });
}

const downloads = {};

function showDownload({ file, length }) {
  downloads[file] = length;
  const total = Object.values(page.sizes).reduce((sum, one) => sum + one, 0);
  const loaded = Object.values(downloads).reduce((sum, one) => sum + one, 0);
  find("loading").querySelector("progress").value = loaded / total;
  find("loading").querySelector("p").textContent =
    `Loading the model: ${(loaded / 1e6).toFixed(1)} of ${(total / 1e6).toFixed(1)} MB, once for all visits.`;
}

/** Registers the service worker and waits until it controls the page; returns whether the page reloads for threads. */
async function isolate() {
  if (!("serviceWorker" in navigator)) return false;
  const controls = new Promise((resolve) => {
    if (navigator.serviceWorker.controller) resolve();
    navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true });
    setTimeout(resolve, 10_000);
  });
  try {
    await navigator.serviceWorker.register("sw.js");
    await controls;
    const isOwnWindow = window.top === window; // a frame cannot isolate itself
    if (!navigator.serviceWorker.controller || crossOriginIsolated || !isOwnWindow) return false;
    if (sessionStorage.getItem("isolated")) return false;
    sessionStorage.setItem("isolated", "once");
  } catch {
    return false; // private windows and embedded pages may refuse
  }
  location.reload();
  return true;
}

async function start() {
  describePage();
  if (await isolate()) return;
  const call = startWorker();
  const begun = performance.now();
  try {
    page.engine = await call("start", { page });
  } catch (error) {
    find("loading").replaceChildren(paragraph(`The model cannot be loaded: ${error.message}`, "notice bad"));
    return;
  }
  reader = call;
  const { threads } = page.engine;
  const seconds = ((performance.now() - begun) / 1000).toFixed(1);
  find("loading").querySelector("progress").hidden = true;
  find("loading").querySelector("p").textContent =
    `Ready after ${seconds} s: WebAssembly${threads > 1 ? ` with ${threads} threads` : ""}.`;
  if (navigator.serviceWorker?.controller) find("offline").textContent = "It now works without a network, too.";
  document.body.dataset.ready = threads;
  if (newest === 0 && page.examples.length) openExample(page.examples[0], { focus: false });
}

function describePage() {
  const { finding } = page;
  document.title = page.title;
  find("tagline").textContent = study.trained_on_phantoms
    ? "A model that knows synthetic X-rays only. Do not use it on real ones."
    : `Drop an X-ray of a finger, hand, wrist, arm or shoulder. A small research model says whether it suspects ` +
      `${article(finding)}, and marks where it looked.`;
  const license = study.license ? `licence ${study.license}` : "no licence named";
  find("about").textContent =
    `Checkpoint: ${study.checkpoint} (${license}, weights ${study.weights_sha256.slice(0, 12)}). ` +
    (study.positive_class_description ? `Abnormal means ${study.positive_class_description}. ` : "") +
    "Marks show where the model looked, not what is there.";
  for (const [name, value] of Object.entries(study.operating_points).sort((a, b) => a[1] - b[1])) {
    const text = `${page.points[name] ?? name}: above ${value.toFixed(2)}`;
    find("point").append(element("option", { value: name }, text));
  }
  find("point").value = study.default_operating_point;
  for (const example of page.examples) {
    const picture = element("img", { src: example.files[0], alt: "", loading: "lazy" });
    const button = element("button", { type: "button" }, picture, element("span", {}, example.caption));
    button.onclick = () => openExample(example);
    find("examples").append(button);
  }
  find("examples-title").hidden = page.examples.length === 0;
  find("credit").textContent = [...new Set(page.examples.map((example) => example.credit))].filter(Boolean).join(" ");
}

async function openExample(example, options) {
  const files = await Promise.all(
    example.files.map(async (file) => ({ name: file.split("/").at(-1), blob: await (await fetch(file)).blob() })),
  );
  openStudy(files, { note: `Example: ${example.note}`, ...options });
}

/** Reads a study and shows the answer. `files` are {name, blob}; the old study disappears at once. */
async function openStudy(files, { note = null, focus = true } = {}) {
  const number = ++newest;
  clearStudy();
  find("busy").textContent = files.length === 1 ? `Reading ${files[0].name} …` : `Reading ${files.length} files …`;
  if (!reader) {
    find("busy").textContent = "The model is still loading; your X-ray is read as soon as it is ready.";
    setTimeout(() => number === newest && openStudy(files, { note, focus }), 200);
    return;
  }
  const problems = files.slice(MAX_VIEWS).map(({ name }) => `${name}: a study has at most ${MAX_VIEWS} views.`);
  const begun = performance.now();
  const found = await reader("read", { files: files.slice(0, MAX_VIEWS), pictures: true }).catch((error) => ({
    views: [], problems: [`The files cannot be read: ${error.message}`],
  }));
  if (number !== newest) {
    found.views.forEach(closePictures);
    return;
  }
  current = { ...found, problems: [...problems, ...found.problems], note, includeAll: false, showAnyway: false };
  current.seconds = (performance.now() - begun) / 1000;
  find("busy").textContent = "";
  showStudy();
  if (!focus) return;
  const title = find("answer").querySelector("h3, .notice");
  title?.focus({ preventScroll: true });
  find("answering").scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion)").matches ? "auto" : "smooth" });
}

function clearStudy() {
  current?.views.forEach(closePictures);
  current = null;
  for (const id of ["answer", "views", "facts"]) find(id).replaceChildren();
  for (const id of ["controls", "details"]) find(id).hidden = true;
}

function closePictures(view) {
  view.film?.close();
  view.heat?.close();
}

/** The views that are answered: without those unlike training, unless all are, or the visitor includes them. */
function selectViews({ views, includeAll }) {
  const { ood } = answerStudy(study, views, find("point").value);
  const known = views.filter((_, place) => !ood || ood.known[place]);
  return includeAll || known.length === 0 ? views : known;
}

function showStudy() {
  const { views, problems, note } = current;
  const box = find("answer");
  box.replaceChildren();
  if (views.length === 0) {
    box.append(listProblems(problems, "There is no view left to read."));
    return;
  }
  const used = selectViews(current);
  const answer = answerStudy(study, used, find("point").value);
  box.dataset.probability = answer.probability;
  const isWithheld = answer.ood !== null && !answer.ood.inDistribution && !current.showAnyway && !current.includeAll;
  const unusual = views.filter((view) => !used.includes(view));
  const left = [...problems, ...unusual.map((view) => `${view.name} is unlike what the model was trained on.`)];
  box.append(isWithheld ? withheldCard(answer, used) : answerCard(answer, note));
  if (unusual.length) box.append(button("Include the unusual pictures", () => (current.includeAll = true)));
  box.append(...answer.warnings.map((warning) => paragraph(warning, "notice")));
  if (left.length) box.append(listProblems(left, "The answer is about the other views."));
  showViews(used, answer, isWithheld);
  find("details").hidden = isWithheld;
  find("facts").replaceChildren(...(isWithheld ? [] : listFacts(answer, used)));
}

function button(text, change) {
  const found = element("button", { type: "button" }, text);
  found.onclick = () => {
    change();
    showStudy();
    find("answer").querySelector("h3")?.focus();
  };
  return found;
}

function listProblems(problems, sentence) {
  const items = element("ul", {}, ...problems.map((problem) => element("li", {}, problem)));
  const properties = { className: "notice bad", role: "alert", tabIndex: -1 };
  return element("div", properties, element("b", {}, "Left out. "), sentence, items);
}

const TITLES = {
  suspected: (finding) => `${capital(finding)} suspected`,
  uncertain: () => "Uncertain, look again",
  low: (finding) => `No ${finding} flagged`,
};
const SENTENCES = {
  suspected: "The box marks where the model looked most. Check it: the model may be wrong.",
  uncertain: "The model cannot tell. A dashed box marks where to look again.",
  low: `This does not exclude ${article(page.finding)}.`,
};

function card(band, title, ...children) {
  const sign = element("span", { ariaHidden: "true" }, `${SIGNS[band]} `);
  return element("article", { className: `card ${band}` }, element("h3", { tabIndex: -1 }, sign, title), ...children);
}

function answerCard(answer, note) {
  const { band, probability } = answer;
  const share = paragraph(`Probability of ${article(page.finding)} `);
  share.append(element("b", {}, chance(probability)));
  const parts = [share, ...zones(answer), paragraph(SENTENCES[band]), note && paragraph(note, "fine")];
  return card(band, TITLES[band](page.finding), ...parts);
}

function withheldCard(answer, views) {
  const known = study.trained_on_phantoms ? "the pictures that the model knows" : "an upper-limb X-ray";
  const unusual = views.filter((_, place) => !answer.ood.known[place]).map((view) => view.name);
  const found = card("withheld", `Not answered: this does not look like ${known}`);
  if (answer.scopeNote) found.append(paragraph(answer.scopeNote));
  if (unusual.length > 1) found.append(paragraph(`Unusual views: ${unusual.join(", ")}.`));
  found.append(paragraph("An answer may be meaningless, so it is not shown."));
  found.append(button("Show the answer anyway", () => (current.showAnyway = true)));
  return found;
}

/** The bar, a scale from 0 to 1 with the zones, and the names of the zones below it. */
function zones({ probability, limits: [low, high], band }) {
  const widths = { low, uncertain: high - low, suspected: 1 - high };
  const names = Object.keys(widths).filter((name) => name !== "uncertain" || low < high);
  const spans = (text) => names.map((name) => element("span", { className: `${name}${name === band ? " here" : ""}` }, text(name)));
  const bar = spans(() => "");
  bar.forEach((span, place) => (span.style.width = `${100 * widths[names[place]]}%`));
  const label = `Probability ${percent(probability)}; unflagged to ${percent(low)}, suspected above ${percent(high)}.`;
  const pointer = element("i", { className: "mark" });
  pointer.style.left = `${Math.min(Math.max(100 * probability, 0.5), 99.5)}%`;
  return [
    element("div", { className: "zones", role: "img", ariaLabel: label }, pointer, ...bar),
    element("div", { className: "scale", ariaHidden: "true" }, ...spans((name) => WORDS[name])),
  ];
}

function showViews(views, answer, isWithheld) {
  const hasHeat = !isWithheld && views.some((view) => view.heat);
  find("controls").hidden = !hasHeat;
  find("show-heat").checked = answer.band !== "low";
  const bands = answer.viewBands.map((band) => (isWithheld ? "withheld" : band));
  find("views").replaceChildren(...views.map((view, place) => drawView(view, bands[place])));
  find("views").className = find("show-heat").checked ? "heat" : "";
  setOpacity();
  if (!hasHeat && study.no_heatmap) find("views").append(paragraph(`No heatmap: ${study.no_heatmap}.`, "fine"));
}

function paint(bitmap, properties) {
  const canvas = element("canvas", { width: bitmap.width, height: bitmap.height, ...properties });
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas;
}

function drawView(view, band) {
  const film = paint(view.film, { role: "img", ariaLabel: `X-ray ${view.name}` });
  const stack = element("div", { className: "stack" }, film);
  stack.style.setProperty("--shape", view.film.width / view.film.height);
  if (view.heat && band !== "withheld") {
    stack.append(paint(view.heat, { className: "heatmap", ariaHidden: "true" }));
    view.regions.forEach(({ box: [x0, y0, x1, y1] }, place) => {
      const frame = element("div", { className: `box ${band}${place ? " minor" : ""}` });
      const shares = { left: x0 / view.width, width: (x1 - x0) / view.width };
      Object.assign(shares, { top: y0 / view.height, height: (y1 - y0) / view.height });
      for (const [side, share] of Object.entries(shares)) frame.style[side] = `${100 * share}%`;
      stack.append(frame);
    });
  }
  const state = band === "withheld" ? "" : `${SIGNS[band]} ${WORDS[band]}: `;
  const caption = element("figcaption", {}, element("b", { className: band }, state), view.name);
  return element("figure", { className: band }, element("div", { className: "stage" }, stack), caption);
}

function listFacts(answer, views) {
  const [low, high] = answer.limits;
  const { bodyPart, region, regionWords, finding, threshold, probability } = answer;
  const likely = (what, name, one) => `${what}: ${name} (predicted, probability ${chance(one.probability)}).`;
  const isFlagged = probability > threshold;
  const facts = [
    page.performance[find("point").value]?.[answer.band],
    `Not flagged up to ${percent(low)}, suspected above ${percent(high)}, uncertain in between.`,
    `At this operating point a study is flagged above ${percent(threshold)}: this one is${isFlagged ? "" : " not"}.`,
    bodyPart && likely("Body part", bodyPart.name, bodyPart),
    !bodyPart && regionWords && likely("Looks like", regionWords, region),
    answer.scopeNote,
    finding && isFlagged && likely("Type, if there is a finding", finding.name.replaceAll("_", " "), finding),
    `Answered in ${current.seconds.toFixed(1)} s.`,
  ].filter(Boolean);
  const rows = views.map((view, place) =>
    element("tr", {}, element("th", { scope: "row" }, view.name), element("td", {}, chance(view.probability)),
      element("td", {}, percent(answer.weights[place])), element("td", {}, WORDS[answer.viewBands[place]])),
  );
  const heads = ["View", "Alone", "Weight", "Answer"].map((text) => element("th", { scope: "col" }, text));
  const table = element("table", {}, element("thead", {}, element("tr", {}, ...heads)), element("tbody", {}, ...rows));
  const scroll = element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "Views" }, table);
  return [...facts.map((fact) => paragraph(fact)), scroll];
}

const setOpacity = () => find("views").style.setProperty("--opacity", find("opacity").value / 100);

// The worklist

const list = { rows: [], stopped: false, total: 0, number: 0 };

/** Reads studies one after another. Of each, the answer and its files are kept, but no pixels. */
async function openWorklist(studies) {
  const number = ++list.number;
  Object.assign(list, { rows: [], stopped: false, total: studies.length });
  find("rows").replaceChildren();
  find("worklist").hidden = false;
  find("stop").disabled = false;
  find("worklist-title").focus();
  for (const [name, files] of studies) {
    while (!reader) await new Promise((resolve) => setTimeout(resolve, 200));
    const row = await readRow(name, files);
    if (list.stopped || number !== list.number) break;
    addRow(row);
    find("worklist-progress").value = list.rows.length / list.total;
    find("worklist-state").textContent = `${list.rows.length} of ${list.total} studies, most likely abnormal first.`;
  }
  if (number === list.number) find("stop").disabled = true;
}

async function readRow(name, files) {
  const found = await reader("read", { files: files.slice(0, MAX_VIEWS), pictures: false }).catch((error) => ({
    views: [], problems: [error.message],
  }));
  const problems = [...found.problems];
  if (files.length > MAX_VIEWS) problems.push(`Only ${MAX_VIEWS} of ${files.length} files were read.`);
  if (found.views.length === 0) return { name, files, band: "failed", probability: null, views: 0, notes: problems };
  const used = selectViews({ ...found, includeAll: false });
  const answer = answerStudy(study, used, find("point").value);
  const unusual = found.views.filter((view) => !used.includes(view)).map((view) => `${view.name} is unlike training.`);
  const band = answer.ood && !answer.ood.inDistribution ? "withheld" : answer.band;
  const warnings = answer.warnings.filter((warning) => !study.warnings.includes(warning));
  const notes = [...problems, ...unusual, ...warnings, ...(answer.scopeNote ? [answer.scopeNote] : [])];
  return { name, files, band, probability: answer.probability, views: used.length, notes };
}

function addRow(row) {
  const group = { withheld: 1, failed: 2, low: 3 }; // what nobody has answered comes before what is not flagged
  const order = (one) => 2 * (group[one.band] ?? 0) - (one.probability ?? 0);
  const after = list.rows.findIndex((one) => order(one) > order(row));
  const place = after < 0 ? list.rows.length : after;
  list.rows.splice(place, 0, row);
  const open = element("button", { type: "button", className: "link" }, row.name);
  open.onclick = () => openStudy(row.files, { note: `From the worklist: ${row.name}` });
  const cells = [
    element("th", { scope: "row" }, open),
    element("td", { className: row.band }, `${SIGNS[row.band]} ${WORDS[row.band]}`),
    element("td", {}, row.probability === null || row.band === "withheld" ? "–" : chance(row.probability)),
    element("td", {}, String(row.views)),
    element("td", { className: "notes" }, row.notes.join(" ")),
  ];
  find("rows").insertBefore(element("tr", {}, ...cells), find("rows").children[place] ?? null);
}

function saveWorklist() {
  // A leading sign would make a formula of a text in a spreadsheet.
  const cell = (value) => `"${String(value ?? "").replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;
  const heads = ["study", "band", "probability", "views", "notes", "checkpoint", "notice"];
  const lines = list.rows.map(({ name, band, probability, views, notes }) =>
    [name, band, probability?.toFixed(6), views, notes.join(" "), study.checkpoint, study.notice].map(cell).join(","),
  );
  const url = URL.createObjectURL(new Blob([`${heads.join(",")}\n${lines.join("\n")}\n`], { type: "text/csv" }));
  element("a", { href: url, download: "worklist.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

// What visitors give

/** Files of one study, or of many if there are folders or too many files: each folder is a study, or each file. */
function open(files) {
  const visible = files.filter(({ name }) => !/(^|\/)(\.|__MACOSX|DICOMDIR$|Thumbs\.db$|desktop\.ini$)/i.test(name));
  const given = visible.filter(({ name }) => !/\.(txt|csv|tsv|json|xml|html?|md|docx|xlsx|log)$/i.test(name));
  if (given.length === 0) return;
  const folderOf = (name) => name.split("/").slice(0, -1).join("/");
  if (given.length <= MAX_VIEWS && new Set(given.map(({ name }) => folderOf(name))).size === 1) {
    openStudy(given.map(({ name, blob }) => ({ name: name.split("/").at(-1), blob })));
    return;
  }
  const studies = new Map();
  for (const { name, blob } of given) {
    const key = folderOf(name) || name;
    studies.set(key, [...(studies.get(key) ?? []), { name: name.split("/").at(-1), blob }]);
  }
  openWorklist([...studies].sort(([first], [second]) => first.localeCompare(second, undefined, { numeric: true })));
}

async function listEntries(entry, folder = "") {
  if (entry.isFile) return [{ name: folder + entry.name, blob: await new Promise((...both) => entry.file(...both)) }];
  const [found, entries] = [[], entry.createReader()];
  for (;;) {
    const some = await new Promise((...both) => entries.readEntries(...both));
    if (some.length === 0) return found;
    for (const one of some) found.push(...(await listEntries(one, `${folder}${entry.name}/`)));
  }
}

const named = (files) => [...files].map((blob) => ({ name: blob.webkitRelativePath || blob.name, blob }));

for (const id of ["files", "folder"]) {
  find(id).addEventListener("change", ({ target }) => {
    open(named(target.files));
    target.value = "";
  });
}
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
for (const end of ["dragleave", "drop"]) {
  document.addEventListener(end, () => document.body.classList.remove("dragging"));
}
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = named(event.dataTransfer.files);
  open(entries.length ? (await Promise.all(entries.map((entry) => listEntries(entry)))).flat() : files);
});
document.addEventListener("paste", ({ clipboardData }) => open(named(clipboardData.files)));
document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
  const isOther = ctrlKey || metaKey || altKey || target.matches("input:not([type=checkbox]), select");
  if (key === "h" && !isOther && !find("controls").hidden) find("show-heat").click();
});
find("show-heat").onchange = ({ target }) => {
  find("views").classList.toggle("heat", target.checked);
  find("views").classList.add("asked"); // views that are not flagged show it only then
};
find("opacity").oninput = setOpacity;
find("point").onchange = () => current && showStudy();
find("stop").onclick = () => {
  list.stopped = true;
  find("stop").disabled = true;
};
find("save").onclick = saveWorklist;

start();
