"use strict";
// What the page does beyond saying what it says: switches, filters, sorting, answers to pointer and keys, samples.
// Foreign text only ever enters by textContent.

const findings = JSON.parse(document.getElementById("findings").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (tag, text = "", properties = {}) => Object.assign(document.createElement(tag), { textContent: text, ...properties });
const entries = new Map(findings.entries.map((entry) => [entry.name, entry]));
const titleOf = (name) => entries.get(name)?.title ?? name;

for (const hidden of all(".bar, .controls, #browser")) hidden.hidden = false;

// --- Theme: the system's, until it is chosen here. A page opened from a file may have no storage.
const theme = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Use the ${theme.textContent.toLowerCase()} theme`);
}
let stored = null;
try { stored = localStorage.getItem("alignax-theme"); } catch { /* no storage */ }
setTheme(stored);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => setTheme());
theme.addEventListener("click", () => {
  setTheme(isDark() ? "light" : "dark");
  try { localStorage.setItem("alignax-theme", document.documentElement.dataset.theme); } catch { /* no storage */ }
});

// --- Switches: `data-when="budget=data"` is shown while the switch `budget` stands at `data`.
function turn(name, to) {
  for (const button of all(`[data-switch="${name}"]`)) button.setAttribute("aria-pressed", String(button.dataset.to === to));
  for (const part of all(`[data-when^="${name}="]`)) part.hidden = part.dataset.when !== `${name}=${to}`;
}
for (const button of all("[data-switch]")) button.addEventListener("click", () => turn(button.dataset.switch, button.dataset.to));
for (const name of new Set(all("[data-switch]").map((button) => button.dataset.switch))) {
  turn(name, document.querySelector(`[data-switch="${name}"]`).dataset.to);
}

// A picture is one stop of the Tab key: what makes sure that its stop is a mark to be seen.
const stops = [];

// --- Filters: by family everywhere, by name where there is a field for it.
for (const box of all("[data-only]")) {
  box.addEventListener("change", () => {
    document.body.classList.toggle(`no-${box.dataset.only}`, !box.checked);
    for (const settle of stops) settle();
  });
}
for (const field of all("[data-find]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.trim().toLowerCase();
    for (const part of all(field.dataset.find)) {
      part.classList.toggle("out", !part.dataset.name.toLowerCase().includes(wanted));
      const folded = part.parentElement.closest("details");
      if (wanted && folded) folded.open = true;
    }
  });
}

// --- Sorting: a heading becomes a button. What is unknown stays last either way.
function sortBy(table, heading, down) {
  const column = [...heading.parentElement.children].indexOf(heading);
  const body = table.tBodies[0];
  const valueOf = (row) => {
    const cell = row.cells[column];
    if (heading.dataset.sort === "text") return cell.textContent.trim().toLowerCase();
    return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
  };
  const rows = [...body.rows].map((row) => [valueOf(row), row]);
  rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : (a > b) - (a < b) && ((a > b) === down ? -1 : 1)));
  body.append(...rows.map(([, row]) => row));
  for (const other of all("thead th[aria-sort]", table)) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
}
for (const table of all("table[data-sortable]")) {
  for (const heading of all("th[data-sort]", table)) {
    const button = make("button", "", { type: "button", className: "sort" });
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const now = heading.getAttribute("aria-sort");
      sortBy(table, heading, now ? now === "ascending" : "down" in heading.dataset);
    });
  }
}

// --- Verdicts against a chosen entry. A pair is kept once; turned round it has the other sign.
const turned = { better: "worse", worse: "better", inconclusive: "inconclusive" };
const minus = (x) => (x === null ? null : -x);
function pairOf(budget, a, b) {
  for (const pair of findings.pairs[budget] ?? []) {
    if (pair.a === a && pair.b === b) return pair;
    if (pair.a === b && pair.b === a) {
      const d = pair.difference;
      return { ...pair, verdict: turned[pair.verdict], difference: { mean: -d.mean, low: minus(d.high), high: minus(d.low) } };
    }
  }
  return null;
}
function number(x, digits) {
  return x === null || x === undefined ? "–" : (Number(x.toFixed(digits)) + 0).toFixed(digits).replace("-", "−");
}
const limits = (e, digits) => (e.low === null || e.high === null ? "" : `[${number(e.low, digits)}, ${number(e.high, digits)}]`);
const chance = (p) => (p === null ? "p unknown" : p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(3)}`);
function why(pair, digits) {
  const seen = pair.detectable === null ? "" : `; shows a difference of ${number(pair.detectable, digits)} four times in five`;
  return `${chance(pair.p_holm)} after Holm's correction${seen}`;
}
const against = document.getElementById("against");
function compareWith(name) {
  against.value = name;
  for (const table of all("table.league")) {
    const heading = table.querySelector("[data-against-head]");
    (heading.querySelector("button") ?? heading).textContent = `Against ${titleOf(name)}`;
    heading.removeAttribute("aria-sort");
    for (const row of table.tBodies[0].rows) {
      const cell = row.querySelector(".against");
      const pair = pairOf(table.dataset.budget, row.dataset.entry, name);
      const digits = Number(table.dataset.places);
      row.classList.toggle("chosen", row.dataset.entry === name);
      cell.className = `against ${pair?.verdict ?? ""}`;
      cell.title = pair ? why(pair, digits) : "";
      cell.replaceChildren();
      delete cell.dataset.value;
      if (!pair) continue;
      cell.dataset.value = pair.difference.mean;
      cell.append(`${number(pair.difference.mean, digits)} `, make("b", pair.verdict), make("small", limits(pair.difference, digits)));
    }
  }
}
against.addEventListener("change", () => compareWith(against.value));
const first = document.querySelector("table.league tbody tr");
if (first) compareWith(first.dataset.entry);

// --- What a mark says. A title becomes a label, so that the browser's own tooltip does not come as well.
const tip = document.getElementById("tip");
for (const title of all("svg .point > title, svg .trial > title")) {
  const mark = title.parentElement;
  mark.setAttribute("role", "img");
  mark.setAttribute("aria-label", title.textContent);
  title.remove();
}
function said(mark) {
  if (mark.tagName !== "TD") return mark.getAttribute("aria-label");
  const row = mark.parentElement.dataset.entry;
  const column = mark.closest("tbody").rows[mark.cellIndex - 1].dataset.entry;
  const { budget } = mark.closest("table").dataset;
  const digits = Number(document.querySelector(`table.league[data-budget="${budget}"]`).dataset.places);
  const pair = pairOf(budget, row, column);
  if (!pair) return "";
  const found = `${number(pair.difference.mean, digits)} ${limits(pair.difference, digits)}`;
  return `${titleOf(row)} minus ${titleOf(column)}\n${found}, ${pair.verdict}\n${why(pair, digits)}`;
}
function show(mark) {
  const text = mark && said(mark);
  tip.hidden = !text;
  for (const lit of all(".lit")) lit.classList.remove("lit");
  const entry = mark?.dataset.entry;
  document.body.classList.toggle("has-lit", Boolean(entry));
  if (entry) for (const same of all(`svg [data-entry="${CSS.escape(entry)}"]`)) same.classList.add("lit");
  if (!text) return;
  tip.textContent = text;
  const at = (mark.querySelector(".mark, .end, .dot") ?? mark).getBoundingClientRect();
  const { width, height } = tip.getBoundingClientRect();
  const above = at.top - height - 10;
  tip.style.left = `${Math.max(8, Math.min(at.left + at.width / 2 - width / 2, document.documentElement.clientWidth - width - 8))}px`;
  tip.style.top = `${above < 8 ? at.bottom + 10 : above}px`;
}
const asked = "svg .point, svg .trial, .pairs td[class]";
document.addEventListener("pointerover", (event) => show(event.target.closest?.(asked)));
document.addEventListener("focusin", (event) => show(event.target.closest?.(asked)));
document.addEventListener("scroll", () => { if (!tip.hidden) show(document.activeElement.closest(asked)); }, { passive: true, capture: true });
document.addEventListener("keydown", (event) => { if (event.key === "Escape") show(null); });

// --- A picture is one stop of the Tab key; the arrow keys go from mark to mark.
for (const group of all("[data-roving]")) {
  const marks = () => all(".point, td[class]", group).filter((mark) => mark.getClientRects().length);
  const start = group.querySelector(".point, td[class]");
  for (const mark of all(".point, td[class]", group)) mark.setAttribute("tabindex", mark === start ? "0" : "-1");
  stops.push(() => {
    const list = marks();
    if (!list.length || list.some((mark) => mark.getAttribute("tabindex") === "0")) return;
    for (const mark of all(".point, td[class]", group)) mark.setAttribute("tabindex", "-1");
    list[0].setAttribute("tabindex", "0");
  });
  group.addEventListener("keydown", (event) => {
    // In a matrix as many as a row has to be seen; its diagonal is empty.
    const row = document.activeElement.closest("tr");
    const down = row ? marks().filter((mark) => row.contains(mark)).length : 1;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: down, ArrowUp: -down }[event.key];
    if (!step) return;
    event.preventDefault();
    const list = marks();
    const next = list[list.indexOf(document.activeElement) + step];
    if (!next) return;
    document.activeElement.setAttribute("tabindex", "-1");
    next.setAttribute("tabindex", "0");
    next.focus({ preventScroll: false });
  });
}

// --- Samples: one prompt, the answers of as many entries as are asked for.
const samples = findings.samples ?? [];
if (samples.length) {
  const [search, prompt, answers, count] = ["search", "prompt", "answers", "count"].map((id) => document.getElementById(id));
  const known = [...new Set(samples.flatMap((sample) => sample.answers.map((answer) => answer.entry)))];
  const order = ["reference", ...all("table.league tbody tr").map((row) => row.dataset.entry)];
  const ranked = [...new Set([...order, ...known])].filter((name) => known.includes(name));
  let columns = ranked.slice(0, 3);

  const list = () => {
    const wanted = search.value.trim().toLowerCase();
    const found = samples.map((sample, i) => [sample, i]).filter(([sample]) =>
      [sample.prompt, ...sample.answers.map((answer) => answer.text)].some((text) => text.toLowerCase().includes(wanted)));
    const before = prompt.value;
    prompt.replaceChildren(...found.map(([sample, i]) => make("option", sample.prompt.replace(/\s+/g, " ").slice(0, 140), { value: i })));
    if (found.some(([, i]) => String(i) === before)) prompt.value = before;
    else prompt.selectedIndex = found.length ? 0 : -1;
    count.textContent = `${found.length} of ${samples.length} prompts`;
    draw();
  };
  const draw = () => {
    const sample = samples[prompt.value];
    document.getElementById("asked").textContent = sample?.prompt ?? "No prompt has this text.";
    answers.replaceChildren(...(sample ? columns.map((name, i) => card(sample, name, i)) : []));
  };
  const card = (sample, name, i) => {
    const choice = make("select", "", { ariaLabel: `Entry of answer ${i + 1}` });
    choice.append(...ranked.map((other) => make("option", other === "reference" ? "Reference" : titleOf(other), { value: other, selected: other === name })));
    choice.addEventListener("change", () => {
      columns[i] = choice.value;
      draw();
      answers.children[i].querySelector("select").focus();
    });
    const head = make("header");
    head.append(choice);
    if (columns.length > 2) {
      const remove = make("button", "×", { type: "button", ariaLabel: `Remove answer ${i + 1}` });
      remove.addEventListener("click", () => {
        columns.splice(i, 1);
        draw();
        answers.children[Math.min(i, columns.length - 1)].querySelector("select").focus();
      });
      head.append(remove);
    }
    const part = make("article", "", { className: "answer" });
    part.append(head);
    const given = sample.answers.filter((answer) => answer.entry === name);
    if (!given.length) part.append(make("p", "No answer was kept.", { className: "quiet" }));
    for (const answer of given) {
      part.append(make("p", answer.text || "(empty)", { className: "text" }));
      part.append(make("p", `gold ${number(answer.gold, 3)} · proxy ${number(answer.proxy, 3)}`, { className: "scores" }));
    }
    return part;
  };
  const go = (by) => {
    prompt.selectedIndex = Math.max(0, Math.min(prompt.options.length - 1, prompt.selectedIndex + by));
    draw();
  };
  document.getElementById("previous").addEventListener("click", () => go(-1));
  document.getElementById("next").addEventListener("click", () => go(1));
  document.getElementById("add").addEventListener("click", () => {
    columns.push(ranked.find((name) => !columns.includes(name)) ?? ranked[0]);
    draw();
  });
  search.addEventListener("input", list);
  prompt.addEventListener("change", draw);
  list();
}

// --- On paper nothing is folded away but the trials, whose lines say what matters.
addEventListener("beforeprint", () => { for (const folded of all("details:not([open], .trials)")) folded.dataset.opened = folded.open = true; });
addEventListener("afterprint", () => { for (const folded of all("details[data-opened]")) { folded.open = false; delete folded.dataset.opened; } });
