// The report's second part: examples, filters, two models side by side.
//
// What models and data sets wrote is inserted by textContent and attributes only, never as HTML. The state of the page is
// what stands behind the # of its address, so that every view has a link, and the browser's back button works.
"use strict";

const PER_PAGE = 200; // lines of the list
const MARKS = { matched: "✓", moved: "↕", wrong: "✗", missing: "−", extra: "+" };
const ONLY = {
  "": "all",
  ab: "A right, B wrong",
  ba: "B right, A wrong",
  changed: "diagnoses of A and B differ",
  own: "A right only with its own images",
};
const NO_RESULT = -2;

let index = null; // what data/index.js holds
let found = []; // places (in index.examples) that the filters leave
const pages = new Map(); // number of a file of examples -> promise of its records
const waiting = new Map(); // the same -> what to call when it has come

// Called by the data files.
function leapReport(what, ...rest) {
  if (what === "index") {
    index = rest[0];
    start();
  } else {
    const [number, records] = rest;
    waiting.get(number)?.(records);
  }
}

// An element with attributes (on...: listeners) and children: elements or texts.
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...present(children));
  return element;
}

const present = (children) => children.flat(2).filter((child) => child != null && child !== false && child !== "");

const by = (id) => document.getElementById(id);

// State: what stands behind the #.

const DEFAULTS = { view: "overview", a: "", b: "", dim: "", task: "", kind: "", only: "", q: "", e: "" };

function readState() {
  const given = new URLSearchParams(location.hash.slice(1));
  const state = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) if (given.has(name)) state[name] = given.get(name);
  return state;
}

function linkTo(state) {
  const changed = Object.entries(state).filter(([name, value]) => value !== DEFAULTS[name]);
  return "#" + new URLSearchParams(changed);
}

// `replace`: no new step for the back button, as while typing.
function go(changes, replace = false) {
  const link = linkTo({ ...readState(), view: "examples", ...changes });
  if (link === location.hash) return;
  history[replace ? "replaceState" : "pushState"](null, "", link);
  show();
}

// Finding examples.

const placeOf = (name) => index.models.findIndex((model) => model.name === name);

function chosenModels(state) {
  let a = placeOf(state.a);
  if (a < 0) a = Math.max(index.models.findIndex((model) => model.control === "none" && model.name !== index.baseline), 0);
  return [a, placeOf(state.b)];
}

const nameOf = (example) => `${index.dimensions[example[0]]}/${index.tasks[example[1]]}/${example[2]}`;

function accepts(state) {
  const [a, b] = chosenModels(state);
  const right = index.kinds.indexOf("correct");
  const kind = index.kinds.indexOf(state.kind);
  const dim = index.dimensions.indexOf(state.dim);
  const task = index.tasks.indexOf(state.task);
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const controls = index.models.flatMap((model, place) => (model.of === index.models[a]?.name ? [place] : []));
  const known = (model, place) => index.kind[model][place] >= 0;
  const only = {
    ab: (place) => b >= 0 && index.kind[a][place] === right && known(b, place) && index.kind[b][place] !== right,
    ba: (place) => b >= 0 && index.kind[b][place] === right && known(a, place) && index.kind[a][place] !== right,
    changed: (place) => b >= 0 && known(a, place) && known(b, place) && index.kind[a][place] !== index.kind[b][place],
    own: (place) =>
      index.kind[a][place] === right &&
      controls.some((other) => known(other, place)) &&
      controls.every((other) => index.kind[other][place] !== right),
  }[state.only];
  return (place) => {
    const example = index.examples[place];
    if (state.dim && example[0] !== dim) return false;
    if (state.task && example[1] !== task) return false;
    if (state.kind && index.kind[a]?.[place] !== kind) return false;
    if (only && !only(place)) return false;
    return words.every((word) => index.searched[place].includes(word));
  };
}

// The list and its filters.

function fill(select, options, value) {
  select.replaceChildren(...options.map(([name, text]) => h("option", { value: name }, text)));
  select.value = value;
}

function showFilters(state) {
  const [a, b] = chosenModels(state);
  const names = index.models.map((model) => [model.name, model.name]);
  fill(by("a"), names, index.models[a]?.name);
  fill(by("b"), [["", "none"], ...names], index.models[b]?.name ?? "");
  fill(by("dim"), [["", "all"], ...index.dimensions.map((name) => [name, name])], state.dim);
  const dim = index.dimensions.indexOf(state.dim);
  const tasks = new Set(index.examples.filter((one) => !state.dim || one[0] === dim).map((one) => index.tasks[one[1]]));
  fill(by("task"), [["", "all"], ...[...tasks].sort().map((name) => [name, name])], state.task);
  const counts = new Map();
  for (const kind of index.kind[a] ?? []) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const kinds = index.kinds.flatMap((name, place) => (counts.has(place) ? [[name, `${name} (${counts.get(place)})`]] : []));
  fill(by("kind"), [["", "all"], ...kinds], state.kind);
  const controlled = index.models.some((model) => model.of === index.models[a]?.name);
  const possible = Object.entries(ONLY).filter(([name]) => !name || (name === "own" ? controlled : b >= 0));
  fill(by("only"), possible, state.only);
  if (document.activeElement !== by("q")) by("q").value = state.q;
}

function dot(model, place) {
  const kind = index.kind[model]?.[place] ?? NO_RESULT;
  const text = kind >= 0 ? index.kinds[kind] : kind === NO_RESULT ? "no result" : "no diagnosis";
  return h("span", { class: `kind kind-${kind}`, title: `${index.models[model].name}: ${text}` },
    h("span", { class: "dot" }), text);
}

function showList(state) {
  const [a, b] = chosenModels(state);
  found = index.examples.map((_, place) => place).filter(accepts(state));
  const at = found.indexOf(index.places.get(state.e));
  const page = Math.max(0, Math.floor(at / PER_PAGE));
  showPage(state, page);
  const of = found.length === index.examples.length ? "" : ` of ${index.examples.length}`;
  by("count").textContent = `${found.length}${of} examples${at < 0 ? "" : `, number ${at + 1}: ${state.e}`}`;
  if (!found.length) by("list").append(h("li", { class: "none" }, "No example is like this. ",
    h("a", { href: linkTo({ ...DEFAULTS, view: "examples", a: state.a, b: state.b }) }, "Show all")));
  return [a, b];
}

function showPage(state, page) {
  const [a, b] = chosenModels(state);
  const lines = found.slice(page * PER_PAGE, (page + 1) * PER_PAGE).map((place) => {
    const example = index.examples[place];
    const name = nameOf(example);
    const shown = index.dimensions[example[0]] === index.review ? [] : [a, b].filter((model) => model >= 0);
    return h("li", {},
      h("a", { href: linkTo({ ...state, e: name }), "aria-current": name === state.e && "true" },
        h("span", { class: "place" }, `${index.tasks[example[1]]} ${example[2]} `, h("small", {}, index.dimensions[example[0]])),
        shown.map((model) => dot(model, place)),
        h("span", { class: "instruction" }, example[3])));
  });
  by("list").replaceChildren(...lines);
  by("list").start = page * PER_PAGE + 1;
  const last = Math.ceil(found.length / PER_PAGE) - 1;
  const turn = (to, text) => h("button", { type: "button", disabled: to < 0 || to > last, onclick: () => showPage(state, to) }, text);
  by("pager").replaceChildren(...(last > 0 ? [turn(page - 1, "Earlier"), ` ${page + 1} of ${last + 1} `, turn(page + 1, "Later")] : []));
}

// One example.

function load(number) {
  if (!pages.has(number)) {
    pages.set(number, new Promise((resolve, reject) => {
      waiting.set(number, resolve);
      const script = h("script", { src: `data/examples-${number}.js` });
      script.onerror = () => reject(new Error(`data/examples-${number}.js cannot be read; is the folder whole?`));
      document.head.append(script);
    }));
  }
  return pages.get(number);
}

async function showExample(state, a, b) {
  const article = by("example");
  const place = index.places.get(state.e);
  if (place === undefined) {
    article.replaceChildren(h("p", { class: "small" }, state.e ? `There is no example ${state.e} in this report.` : "Choose an example."));
    return;
  }
  const number = Math.floor(place / index.together);
  let record;
  try {
    record = (await load(number))[place % index.together];
  } catch (error) {
    pages.delete(number);
    article.replaceChildren(h("p", { class: "note", role: "alert" }, error.message));
    return;
  }
  if (readState().e !== state.e) return; // another one was chosen meanwhile
  const example = index.examples[place];
  const shown = [a, b].filter((model) => model >= 0);
  article.replaceChildren(...present([
    h("h3", {}, `${index.dimensions[example[0]]} / ${index.tasks[example[1]]} / ${example[2]}`),
    h("blockquote", {}, example[3] || "The instruction is not known here."),
    images(record.images, "The scene"),
    Object.keys(record.names).length > 0 && h("p", { class: "small" }, "In the scene: " +
      Object.entries(record.names).map(([number, name]) => `${number} ${name}`).join(", ")),
    record.reference_text != null && [h("h4", {}, "Reference"), h("pre", {}, record.reference_text)],
    b >= 0 && changes(record, a, b),
    h("div", { class: "side-by-side" }, shown.map((model, side) => response(record, model, b >= 0 ? "AB"[side] : ""))),
    pairs(record.pairs ?? [], shown),
    others(place, state, a, b),
  ]));
}

function images(files, what) {
  if (!files) return h("p", { class: "note" }, "The benchmark was not there when this page was made: no images, no reference.");
  const names = files.length === 2 ? ["plain", "numbered"] : files.map((_, place) => `image ${place + 1}`);
  return h("div", { class: "images" }, files.map((file, place) => file === null
    ? h("p", { class: "note" }, `The ${names[place]} image could not be read.`)
    : h("button", { type: "button", class: "image", onclick: () => zoom(file, `${what}, ${names[place]}`) },
      h("img", { src: `images/${file}`, alt: `${what}, ${names[place]}; opens in full size` }))));
}

function zoom(file, what) {
  by("zoomed").src = `images/${file}`;
  by("zoomed").alt = what;
  by("zoom").showModal();
}

const kindOf = (found) => (found?.kind >= 0 ? index.kinds[found.kind] : "no diagnosis");
const number = (value) => (value == null ? "-" : Number(value).toFixed(value % 1 ? 1 : 0));

function changes(record, a, b) {
  const [one, other] = [record.responses[a], record.responses[b]];
  if (!one || !other) return null;
  const items = [];
  if (one.kind != null && other.kind != null) items.push(one.kind === other.kind ? `both ${kindOf(one)}` : `A ${kindOf(one)}, B ${kindOf(other)}`);
  if (one.scores && other.scores) for (const name of ["total_score", "grounded"]) {
    const [x, y] = [one, other].map((response) => response.scores[index.scores.indexOf(name)]);
    if (x != null && y != null && x !== y) items.push(`${name}: A ${number(x)}, B ${number(y)}`);
  }
  if (one.plan && other.plan) {
    const texts = [one, other].map((response) => response.plan.map((step) => step.join(" ")));
    const steps = [...Array(Math.max(texts[0].length, texts[1].length)).keys()].filter((step) => texts[0][step] !== texts[1][step]);
    items.push(steps.length ? `steps that differ: ${steps.map((step) => step + 1).join(", ")}` : "the same plan");
  }
  return items.length ? h("p", { class: "changes" }, h("strong", {}, "A against B: "), items.join("; ")) : null;
}

function response(record, model, side) {
  const { name, control } = index.models[model];
  const found = record.responses[model];
  const title = h("h4", {}, side && h("span", { class: "side" }, side), name);
  if (!found) return h("section", { class: "response" }, title, h("p", { class: "small" }, "It has nothing of this example."));
  return h("section", { class: "response" },
    title,
    found.kind != null && h("p", { class: `verdict kind-${found.kind}` }, h("span", { class: "dot" }), h("strong", {}, kindOf(found))),
    found.words?.length > 0 && h("ul", { class: "words" }, found.words.map((sentence) => h("li", {}, sentence))),
    h("div", { class: "badges" }, badges(found)),
    shownImages(found, control),
    found.plan && steps(record, found, name),
    found.scores && scoreTable(found),
    found.verdicts && verdicts(found.verdicts),
    rawResponse(found),
    repeats(found),
    fewShot(found.few_shot));
}

function badges(found) {
  const texts = [...(found.flags ?? [])];
  if (found.format_error) texts.push(`scored as a format error: ${found.format_error}`);
  for (const repair of found.repairs ?? []) texts.push(`read by a repair: ${repair}`);
  if (found.finish && found.finish !== "stop") texts.push(`ended by: ${found.finish}`);
  if (found.prompt_tokens != null) texts.push(`${found.prompt_tokens} tokens of prompt`);
  if (found.new_tokens != null) texts.push(`${found.new_tokens} new`);
  return texts.map((text) => h("span", { class: "badge" }, text));
}

function shownImages(found, control) {
  if (control === "none") return null;
  if (found.images === "absent") return h("p", { class: "note" }, "It was asked without images.");
  if (found.images === "blank") return h("p", { class: "note" }, "It was shown grey images.");
  if (!found.images) return h("p", { class: "note" }, `It was asked with other images (${control}), which are not known here.`);
  return h("details", {}, h("summary", {}, "It was shown another scene's images"), images(found.images, "What the model was shown"));
}

const stepText = (record, step) => {
  const ids = step.slice(1).filter((id) => id != null).map((id) => (Object.hasOwn(record.names, id) ? `${id} ${record.names[id]}` : id));
  return [step[0], ...ids].join(" ");
};

function steps(record, found, model) {
  const more = found.steps > found.plan.length ? h("p", { class: "small" }, `${found.steps - found.plan.length} more steps are not shown.`) : null;
  if (!record.reference) return [h("ol", {}, found.plan.map((step) => h("li", {}, stepText(record, step)))), more];
  const rows = (found.rows ?? []).map(([expected, said, mark]) => h("tr", { class: mark },
    h("td", {}, expected === null ? "" : `${expected + 1}. ${stepText(record, record.reference[expected])}`),
    h("td", {}, said === null ? "" : `${said + 1}. ${stepText(record, found.plan[said])}`),
    h("td", { class: "mark" }, h("span", { "aria-hidden": "true" }, MARKS[mark]), ` ${mark}`)));
  return [h("div", { class: "scroll", role: "region", "aria-label": `Steps of ${model}`, tabindex: "0" }, h("table", { class: "steps" },
    h("thead", {}, h("tr", {}, ["reference", "response", "mark"].map((name) => h("th", { scope: "col" }, name)))),
    h("tbody", {}, rows))), more];
}

function scoreTable(found) {
  const named = index.scores.map((name, place) => [name, found.scores[place]]);
  const rows = [...named, ...Object.entries(found.further_scores ?? {})].filter(([, value]) => value != null);
  if (!rows.length) return h("p", { class: "small" }, "No score: it is left out of the means.");
  const main = rows.filter(([name]) => ["total_score", "grounded"].includes(name)).map(([name, value]) => `${name} ${number(value)}`);
  return h("details", {}, h("summary", {}, main.join(", ")), h("table", {}, h("tbody", {}, rows.map(([name, value]) =>
    h("tr", {}, h("th", { scope: "row" }, name.replaceAll("_", " ")), h("td", { class: "number" }, String(value)))))));
}

function verdicts(given) {
  if (!given.length) return h("p", { class: "small" }, "Not judged.");
  return given.map((verdict) => h("section", { class: "judged" },
    h("h5", {}, `${verdict.judge}, repeat ${verdict.repeat}`),
    h("p", {}, index.criteria.map((name, place) => `${name} ${number(verdict.scores[place])}`).join(", ")),
    verdict.error && h("p", { class: "note" }, verdict.error),
    verdict.rationale.text && h("p", { class: "rationale" }, verdict.rationale.text)));
}

function pairs(given, shown) {
  const names = shown.map((model) => index.models[model].name);
  const rows = given.filter((pair) => names.length < 2 || (names.includes(pair.model_a) && names.includes(pair.model_b)));
  return rows.length > 0 && h("details", {}, h("summary", {}, `Compared in pairs (${rows.length})`), rows.map((pair) => h("section", { class: "judged" },
    h("h5", {}, `${pair.judge}: ${pair.model_a} against ${pair.model_b}`),
    h("p", {}, pair.error || { a: `${pair.model_a} is better`, b: `${pair.model_b} is better`, tie: "a tie" }[pair.outcome] || "no outcome"),
    [pair.rationale_ab, pair.rationale_ba].filter(Boolean).map((text) => h("p", { class: "rationale" }, text)))));
}

function rawResponse(found) {
  if (found.error) return h("p", { class: "note" }, found.error);
  if (found.text == null) return null;
  const cut = found.length > index.longest;
  return h("details", { open: !found.plan },
    h("summary", {}, `Raw response (characters: ${found.length.toLocaleString("en")})`),
    cut && h("p", { class: "note" }, `Cut: the first ${index.longest.toLocaleString("en")} characters are shown; predictions.jsonl has all.`),
    h("pre", { tabindex: "0", "aria-label": "Raw response" }, found.text));
}

function repeats(found) {
  if (!found.repeats) return null;
  return h("details", {}, h("summary", {}, `Asked ${found.repeats.length + 1} times: scores are means, all else is of the first`),
    found.repeats.map((one, place) => [h("h5", {}, `Response ${place + 2}`), h("pre", {}, one.text)]));
}

function fewShot(given) {
  if (given === "unknown") return h("p", { class: "note" }, "It was shown few-shot examples, which are not known here: the benchmark is another one now.");
  if (!given?.length) return null;
  return h("details", {}, h("summary", {}, `Few-shot examples (${given.length})`), given.map((one, place) => h("section", {},
    images(one.images, `Few-shot example ${place + 1}`), h("blockquote", {}, one.instruction), h("pre", {}, one.text))));
}

function others(place, state, a, b) {
  const rows = index.models.flatMap((model, other) => (index.kind[other][place] === NO_RESULT || other === a || other === b ? [] : [
    h("tr", {}, h("th", { scope: "row" }, model.name), h("td", {}, dot(other, place)),
      h("td", { class: "number" }, number(index.grounded[other][place])),
      h("td", {}, h("a", { href: linkTo({ ...state, b: model.name }), "aria-label": `${model.name} as B` }, "as B")))]));
  return rows.length > 0 && h("details", {}, h("summary", {}, `Other models on this example (${rows.length})`),
    h("table", {}, h("thead", {}, h("tr", {}, ["model", "diagnosis", "grounded", "compare"].map((name) => h("th", { scope: "col" }, name)))), h("tbody", {}, rows)));
}

// Showing a state; listening.

let last = null;

function show() {
  const state = readState();
  const examples = state.view === "examples";
  by("overview").hidden = examples;
  by("examples").hidden = !examples;
  by("to-overview").toggleAttribute("aria-current", !examples);
  by("to-examples").toggleAttribute("aria-current", examples);
  by("to-examples").href = linkTo({ ...state, view: "examples" });
  if (!examples) return;
  const listed = last && Object.keys(DEFAULTS).every((name) => name === "e" || last[name] === state[name]);
  last = state;
  if (!listed) showFilters(state);
  const [a, b] = showList(state);
  reveal(by("list").querySelector("[aria-current]"));
  showExample(state, a, b);
}

// Scrolls the list alone: scrollIntoView would move the page, too.
function reveal(line) {
  const side = by("list").parentElement;
  if (!line) return;
  const [top, bottom] = [line.parentElement.offsetTop, line.parentElement.offsetTop + line.parentElement.offsetHeight];
  if (top < side.scrollTop) side.scrollTop = top;
  else if (bottom > side.scrollTop + side.clientHeight) side.scrollTop = bottom - side.clientHeight;
}

function move(steps) {
  if (readState().view !== "examples") go({});
  const state = readState();
  const at = found.indexOf(index.places.get(state.e));
  const next = found[at < 0 ? 0 : Math.min(Math.max(at + steps, 0), found.length - 1)];
  if (next !== undefined) go({ e: nameOf(index.examples[next]) });
}

function pressed(event) {
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "Escape" && typing) return event.target.blur();
  if (typing || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const state = readState();
  const dimension = index.dimensions[Number(event.key) - 1];
  if (event.key === "?") by("keys").showModal();
  else if (event.key === "/") {
    if (state.view !== "examples") go({});
    by("q").focus();
  } else if (event.key === "j" || event.key === "k") move(event.key === "j" ? 1 : -1);
  else if (event.key === "s" && state.b) go({ a: state.b, b: index.models[chosenModels(state)[0]].name });
  else if (dimension) go({ dim: state.dim === dimension ? "" : dimension, task: "" });
  else return;
  event.preventDefault();
}

function sortBy(table, column, button) {
  const body = table.tBodies[0];
  const header = button.closest("th");
  const down = header.getAttribute("aria-sort") !== "descending";
  for (const other of table.tHead.querySelectorAll("th")) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
  const compare = (one, other) => {
    const [x, y] = [one, other].map((row) => row.cells[column]);
    const numbers = [x, y].map((cell) => Number(cell.dataset.order)); // NaN: a text, or a number that is not known
    const unknown = numbers.map(Number.isNaN);
    if (unknown[0] !== unknown[1]) return unknown[0] - unknown[1];
    const upwards = unknown[0] ? x.textContent.localeCompare(y.textContent, "en", { numeric: true }) : numbers[0] - numbers[1];
    return down ? -upwards : upwards;
  };
  body.append(...[...body.rows].sort(compare));
}

function theme(choose) {
  let chosen = null;
  try { chosen = localStorage.getItem("leap-theme"); } catch { /* a browser that keeps nothing for files */ }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  if (choose) {
    const now = document.documentElement.style.colorScheme || (dark ? "dark" : "light");
    chosen = now === "dark" ? "light" : "dark";
    try { localStorage.setItem("leap-theme", chosen); } catch { /* the same */ }
  }
  if (chosen) document.documentElement.style.colorScheme = chosen;
}

function start() {
  index.places = new Map(index.examples.map((example, place) => [nameOf(example), place]));
  index.searched = index.examples.map((example) => `${nameOf(example)} ${example[3]}`.toLowerCase());
  for (const name of ["a", "b", "dim", "task", "kind", "only"]) by(name).addEventListener("change", () => go({ [name]: by(name).value, ...(name === "dim" && { task: "" }) }));
  by("q").addEventListener("input", () => go({ q: by("q").value }, true));
  by("filters").addEventListener("submit", (event) => event.preventDefault());
  by("clear").addEventListener("click", () => go({ dim: "", task: "", kind: "", only: "", q: "" }));
  by("theme").addEventListener("click", () => theme(true));
  document.querySelector(".skip").addEventListener("click", (event) => {
    event.preventDefault(); // what stands behind the # is the page's state
    by("main").focus();
  });
  by("help").addEventListener("click", () => by("keys").showModal());
  document.addEventListener("keydown", pressed);
  addEventListener("hashchange", show);
  for (const table of document.querySelectorAll("table.sortable")) {
    for (const [column, header] of [...table.tHead.rows[0].cells].entries()) {
      const button = h("button", { type: "button" }, ...header.childNodes);
      button.addEventListener("click", () => sortBy(table, column, button));
      header.replaceChildren(button);
    }
  }
  show();
}

theme(false);
