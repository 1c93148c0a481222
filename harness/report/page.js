"use strict";
// The report's page. All that tests and guests said reaches the screen as text: nothing here makes markup of a string.

let DATA = JSON.parse(document.getElementById("data").textContent);
const view = document.getElementById("view");
const tabs = document.getElementById("tabs");
const MARKS = { passed: "✓", failed: "✗", skipped: "–" };
const fmt = new Intl.NumberFormat("en");

// Small things.

function el(name, props, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(node.style, value);
    else node.setAttribute(key === "cls" ? "class" : key, value === true ? "" : value);
  }
  node.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

function svg(name, props, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(props)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

// Characters that would not be seen, or would turn the text around.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/;

/** Text for people: nodes in which control characters can be seen. */
function shown(text) {
  text = String(text);
  if (!HIDDEN.test(text)) return [text];
  return text.split(new RegExp(`(${HIDDEN.source})`)).map((part) => {
    if (part.length !== 1 || !HIDDEN.test(part)) return part;
    const code = part.charCodeAt(0);
    const sign = code < 0x20 || code === 0x7f ? `^${String.fromCharCode(code ^ 0x40)}` : `⟨U+${code.toString(16).toUpperCase().padStart(4, "0")}⟩`;
    return el("span", { cls: "ctl", title: `U+${code.toString(16).padStart(4, "0")}` }, sign);
  });
}

function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 10) return `${value.toFixed(value < 1 ? 2 : 1)} s`;
  if (value < 100) return `${Math.round(value)} s`;
  const minutes = Math.floor(value / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(value % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

const clock = (at) => `${at < 0 ? "-" : ""}${Math.floor(Math.abs(at) / 60)}:${(Math.abs(at) % 60).toFixed(3).padStart(6, "0")}`;
const number = (value) => (Math.abs(value) >= 100 || Number.isInteger(value) ? fmt.format(Math.round(value * 100) / 100) : Number(value.toPrecision(4)).toString());
const plural = (count, word) => `${fmt.format(count)} ${word}${count === 1 ? "" : "s"}`;
const say = (text) => { document.getElementById("said").textContent = text; };
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function suiteOf(test) {
  const path = test.id.split("::", 1)[0].replace(/^testsuites\//, "");
  return path.includes("/") ? path.slice(0, path.lastIndexOf("/")) : path;
}

function nameOf(test) {
  const at = test.id.indexOf("::");
  return (at < 0 ? test.id : test.id.slice(at + 2)).replace(/\[[^\]]*-smp\d[^\]]*\]$/, "");
}

function fileOf(test) {
  return test.id.split("::", 1)[0].replace(/^testsuites\//, "");
}

/** A board's id in lines: `qemu-riscv64-smp4-debug` is riscv64, smp4, debug. */
function boardWords(board) {
  const match = /^(.*?)-(smp\d+)(?:-(.*))?$/.exec(board);
  return match ? [match[1].replace(/^qemu-/, ""), match[2], (match[3] || "").replaceAll("-", " ")] : [board, "", ""];
}

const by = (key) => (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : 0);
const distinct = (list) => [...new Set(list)].sort();

// What is worked out once for the data.

let M;

function understand() {
  const tests = DATA.tests;
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const cells = new Map();
  const proofs = new Map();
  tests.forEach((test, index) => {
    test.index = index;
    test.suite = suiteOf(test);
    test.board = test.board || "host";
    counts[test.outcome] += 1;
    const key = `${test.suite}\n${test.board}`;
    const cell = cells.get(key) || { passed: 0, failed: 0, skipped: 0 };
    cell[test.outcome] += 1;
    cells.set(key, cell);
    for (const id of test.requirements || []) {
      if (!proofs.has(id)) proofs.set(id, []);
      proofs.get(id).push(test);
    }
  });
  const boards = distinct(tests.map((test) => test.board)).sort(by((b) => (b === "host" ? "~" : b)));
  const failures = tests.filter((test) => test.outcome === "failed");
  const machines = new Map(DATA.machines.map((machine) => [machine.name, machine]));
  // A machine that a test boots beside its board's own stands with that board.
  for (const machine of DATA.machines) machine.lane = machine.board;
  for (const test of tests) for (const name of test.machines || []) if (machines.has(name)) machines.get(name).lane = test.board;
  M = { counts, cells, proofs, boards, suites: distinct(tests.map((test) => test.suite)), failures, machines, changes: changes() };
}

function changes() {
  if (!DATA.good) return [];
  const before = DATA.good.tests;
  const found = [];
  const seen = new Set();
  for (const test of DATA.tests) {
    seen.add(test.id);
    const old = before[test.id];
    if (!old) found.push({ kind: "new", rank: test.outcome === "failed" ? 0 : 3, test, said: `new, ${test.outcome}` });
    else if (old[0] !== test.outcome) {
      const red = test.outcome === "failed";
      found.push({ kind: red ? "broken" : "changed", rank: red ? 0 : 4, test, said: `was ${old[0]}, now ${test.outcome}` });
    } else if (test.seconds > 2 * old[1] && test.seconds > old[1] + 1) {
      found.push({ kind: "slower", rank: 2, test, said: `took ${seconds(old[1])}, now ${seconds(test.seconds)}` });
    }
  }
  if (DATA.seconds !== null) {
    for (const id of Object.keys(before)) if (!seen.has(id)) found.push({ kind: "gone", rank: 1, id, said: "not in this run" });
  }
  for (const metric of DATA.metrics) {
    const old = DATA.good.metrics[metric.key];
    const now = metric.points.at(-1)[1];
    if (old !== undefined && old !== now) {
      const worse = metric.better === "lower" ? now > old : now < old;
      const share = old ? ` (${now > old ? "+" : ""}${((now / old - 1) * 100).toFixed(2)} %)` : "";
      found.push({ kind: worse ? "worse" : "better", rank: worse ? 1 : 5, metric, said: `${number(old)} → ${number(now)} ${metric.unit}${share}` });
    }
  }
  return found.sort(by((change) => change.rank));
}

// A list of any length, of which only what can be seen is in the page.

class VList {
  constructor({ height, row, open, label, cls = "", bare = false }) {
    Object.assign(this, { height, row, open, items: [], active: 0, bare });
    this.id = `l${(VList.count = (VList.count || 0) + 1)}`;
    this.node = el("div", { cls: `vlist ${cls}`, tabindex: "0", role: "listbox", "aria-label": label });
    this.node.addEventListener("keydown", (event) => this.key(event));
    VList.live.add(this);
  }

  set(items, active = 0) {
    this.items = items;
    this.active = Math.min(active, Math.max(items.length - 1, 0));
    this.node.style.height = items.length ? `${items.length * this.height + 2}px` : "auto";
    this.draw(true);
  }

  draw(force) {
    if (!this.items.length) return this.node.replaceChildren(el("p", { cls: "empty" }, "Nothing here."));
    const top = -this.node.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(top / this.height) - 6);
    const last = Math.min(this.items.length, Math.ceil((top + innerHeight) / this.height) + 6);
    if (!force && first === this.first && last === this.last) return;
    Object.assign(this, { first, last });
    const rows = [];
    const add = (index) => {
      const node = this.row(this.items[index], index);
      if (!this.bare) node.classList.add("row");
      Object.assign(node.style, { top: `${index * this.height}px`, height: `${this.height}px` });
      node.id = `${this.id}-${index}`;
      node.setAttribute("role", "option");
      node.setAttribute("aria-posinset", index + 1);
      node.setAttribute("aria-setsize", this.items.length);
      node.setAttribute("aria-selected", index === this.active);
      node.addEventListener("click", () => { this.active = index; if (this.open) this.open(this.items[index]); });
      rows.push(node);
    };
    for (let index = first; index < last; index += 1) add(index);
    if (this.active < first || this.active >= last) add(this.active); // what the screen reader's cursor names is there
    this.node.replaceChildren(...rows);
    this.node.setAttribute("aria-activedescendant", `${this.id}-${this.active}`);
  }

  move(index) {
    this.active = Math.max(0, Math.min(this.items.length - 1, index));
    const head = document.querySelector("header").offsetHeight;
    const top = this.node.getBoundingClientRect().top + this.active * this.height;
    if (top < head + 8) scrollBy(0, top - head - 8);
    else if (top + this.height > innerHeight - 8) scrollBy(0, top + this.height - innerHeight + 8);
    this.draw(true);
  }

  key(event) {
    if (!this.items.length || event.target !== this.node || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor((innerHeight - 120) / this.height));
    const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page };
    if (event.key in steps) this.move(this.active + steps[event.key]);
    else if (event.key === "Home") this.move(0);
    else if (event.key === "End") this.move(this.items.length - 1);
    else if (event.key === "Enter" || event.key === " ") { if (this.open) this.open(this.items[this.active]); }
    else return;
    event.preventDefault();
  }
}
VList.live = new Set();
for (const name of ["scroll", "resize"]) addEventListener(name, () => VList.live.forEach((list) => list.draw()), { passive: true });

// Pieces.

const badge = (word, cls) => el("span", { cls: `badge ${cls || ""}` }, ...shown(word));
const verdictBadge = (test) => badge(test.verdict, test.outcome === "failed" ? "" : test.outcome);
const link = (name, words) => `#${name}?${new URLSearchParams(words)}`;

function testRow(test, said) {
  const name = nameOf(test);
  const more = said || (test.outcome === "failed" || test.outcome === "skipped" ? test.cause : "") || fileOf(test);
  return el("div", { title: test.id },
    el("span", { cls: `mark ${test.outcome}`, "aria-label": test.outcome }, MARKS[test.outcome]),
    el("span", { cls: "main" }, ...shown(name), el("small", {}, ...(test.board === "host" ? [] : [`${boardWords(test.board).filter(Boolean).join(" ")} · `]), ...shown(more))),
    test.retries && badge("retried", "warn"),
    test.quarantine && badge("quarantined", "warn"),
    test.outcome === "failed" && test.verdict !== "failed" && verdictBadge(test),
    el("span", { cls: "side wide" }, seconds(test.seconds)));
}

function copyButton(text) {
  return el("button", { cls: "button", type: "button", "aria-label": `Copy: ${text}`, onclick: (event) => {
    const area = el("textarea", {}, text);
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    event.target.textContent = done ? "Copied" : "Select it";
    event.target.focus();
    say(done ? "copied" : "not copied");
  } }, "Copy");
}

function command(label, text) {
  return el("div", { cls: "command" }, el("span", {}, label), el("code", {}, ...shown(text)), copyButton(text));
}

function shares(counts) {
  return el("div", { cls: "share", role: "img", "aria-label": `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped` },
    ["failed", "passed", "skipped"].filter((o) => counts[o]).map((o) => el("i", { cls: o, style: { flexGrow: counts[o] } })));
}

function fact(label, value, mono) {
  return value ? el("span", {}, `${label} `, el("b", { cls: mono ? "mono" : "" }, ...shown(value))) : null;
}

// Views.

const VIEWS = {};
// Failures that are told before the matrix.
const FIRST = 12;

VIEWS.overview = () => {
  const { counts } = M;
  const total = DATA.tests.length;
  const red = counts.failed || DATA.faults.length;
  const title = counts.failed ? `${fmt.format(counts.failed)} of ${plural(total, "test")} failed`
    : DATA.faults.length ? "Nothing failed, but the run is not whole"
    : total ? `All ${plural(counts.passed, "test")} passed` : DATA.seconds === null ? "Nothing has ended yet" : "Nothing ran";
  const retried = DATA.tests.filter((test) => test.retries).length;
  const failures = new VList({ height: 54, row: (test) => testRow(test), open: openTest, label: "Failures" });
  queueMicrotask(() => failures.set(M.failures.slice(0, FIRST)));
  return [
    el("h1", {}, title, DATA.seconds === null && el("small", { cls: "soft" }, " so far")),
    shares(counts),
    el("p", { cls: "facts" },
      fact("passed", fmt.format(counts.passed)), fact("failed", fmt.format(counts.failed)), fact("skipped", fmt.format(counts.skipped)),
      retried ? fact("retried", fmt.format(retried)) : null, DATA.seconds === null ? null : fact("took", seconds(DATA.seconds))),
    el("p", { cls: "facts" },
      fact("began", DATA.head.at.replace("T", " ").replace("+00:00", " UTC")), fact("revision", DATA.head.revision, true),
      fact("shard", DATA.head.shard), fact("on", DATA.head.host)),
    el("p", { cls: "facts" }, fact("command", DATA.head.command, true)),
    DATA.faults.map((fault) => el("p", { cls: "fault" }, ...shown(fault))),
    red && M.failures.length ? [el("h2", {}, "What failed", el("small", {}, plural(M.failures.length, "test"))), failures.node,
      M.failures.length > FIRST && el("p", {}, el("a", { href: link("tests", { o: "failed" }) }, `All ${fmt.format(M.failures.length)} failures`))] : null,
    el("h2", {}, "Matrix", el("small", {}, "suites on boards")),
    matrix(),
    DATA.good ? [el("h2", {}, "Since the last good run"), el("p", {}, comparison(), " ", el("a", { href: "#compare" }, "All changes"))] : null,
  ];
};

function comparison() {
  const count = {};
  for (const change of M.changes) count[change.kind] = (count[change.kind] || 0) + 1;
  const words = { broken: "newly failing", gone: "gone", slower: "slower", new: "new", changed: "otherwise changed", worse: "numbers worse", better: "numbers better" };
  const told = Object.entries(words).filter(([kind]) => count[kind]).map(([kind, word]) => `${fmt.format(count[kind])} ${word}`);
  return `${told.join(", ") || "Nothing has changed"} since ${DATA.good.head.name} (revision ${DATA.good.head.revision}).`;
}

function matrix() {
  const head = M.boards.map((board) => {
    const [arch, cpus, extra] = boardWords(board);
    return el("th", { scope: "col" }, el("b", {}, ...shown(arch)), cpus, extra ? [el("br"), ...shown(extra)] : null);
  });
  const rows = M.suites.map((suite) => el("tr", {}, el("th", { scope: "row" }, ...shown(suite)), M.boards.map((board) => {
    const cell = M.cells.get(`${suite}\n${board}`);
    if (!cell) return el("td");
    const outcome = cell.failed ? "failed" : cell.passed ? "passed" : "skipped";
    const text = cell.failed ? `${cell.failed} ✗` : cell.passed ? fmt.format(cell.passed) : "–";
    const told = `${suite} on ${board}: ${cell.passed} passed, ${cell.failed} failed, ${cell.skipped} skipped`;
    return el("td", {}, el("a", { cls: outcome, title: told, "aria-label": told, href: link("tests", { s: suite, b: board, ...(cell.failed ? { o: "failed" } : {}) }) }, text));
  })));
  if (!rows.length) return el("p", { cls: "soft" }, "No tests yet.");
  return el("div", { cls: "matrix" }, el("table", {}, el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "suite"), head)), el("tbody", {}, rows)));
}

/** A select of values; "" is all. */
function choice(label, values, value, onchange, names = {}) {
  return el("select", { "aria-label": label, onchange: (event) => onchange(event.target.value) },
    el("option", { value: "" }, names[""] || `${label}: all`), values.map((one) => el("option", { value: one, selected: one === value }, names[one] || one)));
}

function searched(words, onchange, label) {
  return el("input", { type: "search", placeholder: `${label} (press /)`, "aria-label": label, value: words || "", oninput: (event) => onchange(event.target.value) });
}

/** Filters kept in the address, so that a view can be named, and Back works. */
function filters(name, params, inputs, apply) {
  const count = el("span", { cls: "count" });
  const state = Object.fromEntries(params);
  const run = () => { count.textContent = apply(state); };
  const set = (key) => (value) => {
    if (value) state[key] = value; else delete state[key];
    history.replaceState(null, "", link(name, state));
    run();
  };
  queueMicrotask(run);
  return el("div", { cls: "filters" }, inputs(state, set), count);
}

const matches = (words, ...texts) => {
  const all = texts.join(" ").toLowerCase();
  return words.toLowerCase().split(/\s+/).every((word) => all.includes(word));
};

VIEWS.tests = (params) => {
  const list = new VList({ height: 54, row: (test) => testRow(test), open: openTest, label: "Tests" });
  return [
    el("h1", {}, "Tests"),
    filters("tests", params, (state, set) => [
      searched(state.q, set("q"), "Find tests"),
      choice("outcome", ["failed", "passed", "skipped"], state.o, set("o")),
      choice("board", M.boards, state.b, set("b")),
      choice("suite", M.suites, state.s, set("s")),
    ], (state) => {
      const found = DATA.tests.filter((test) => (!state.o || test.outcome === state.o) && (!state.b || test.board === state.b)
        && (!state.s || test.suite === state.s) && (!state.q || matches(state.q, test.id, test.verdict, test.cause || "", (test.requirements || []).join(" "))));
      list.set(found, list.active);
      return plural(found.length, "test");
    }),
    list.node,
  ];
};

function openTest(test) {
  location.hash = link("test", { id: test.id });
}

VIEWS.test = (params) => {
  const test = DATA.tests.find((one) => one.id === params.get("id"));
  if (!test) return [el("h1", {}, "No such test in this run"), el("p", { cls: "mono" }, ...shown(params.get("id") || ""))];
  const at = M.failures.indexOf(test);
  const step = (by) => M.failures.length > 1 && at >= 0 ? el("a", { cls: "button", href: link("test", { id: M.failures[(at + by + M.failures.length) % M.failures.length].id }) }, by > 0 ? "Next failure" : "Previous") : null;
  const old = DATA.good && DATA.good.tests[test.id];
  const sections = test.looked || [];
  return [el("article", { cls: "detail" },
    el("div", { cls: "back" }, el("a", { cls: "button", href: "#tests", onclick: (event) => { event.preventDefault(); history.length > 1 ? history.back() : (location.hash = "#tests"); } }, "← Back"), step(-1), step(1)),
    el("div", { cls: "badges" }, verdictBadge(test), badge(test.board, "info"), badge(test.suite, "info"), (test.retries || []).map((one) => badge(`retried: ${one}`, "warn")),
      test.quarantine && badge(`quarantined: ${test.quarantine}`, "warn")),
    el("h1", {}, ...shown(nameOf(test))),
    el("p", { cls: "mono soft", style: { overflowWrap: "anywhere" } }, ...shown(test.id)),
    test.cause && el("p", { cls: "cause" }, ...shown(test.cause)),
    el("div", { cls: "commands" },
      test.outcome === "failed" && test.place && command("Line", test.place),
      test.replay && command("Reopen the machine", test.replay),
      command("Run just this", test.rerun || `pytest '${test.id}'`),
      test.log && command("Console log", test.log)),
    test.gone && el("p", { cls: "soft" }, "That machine is no longer kept here: of one cause two are, and the oldest go when room is needed."),
    el("p", { cls: "facts" }, fact("took", seconds(test.seconds)), old ? fact("before", seconds(old[1])) : null,
      old ? fact("was", old[0]) : null, (test.requirements || []).length ? fact("proves", test.requirements.join(", ")) : null),
    sections.some(([title]) => title.startsWith("CPU")) && el("h2", {}, "Backtrace and registers"),
    sections.map(([title, text]) => title.startsWith("CPU") ? cpu(title, text) : null),
    machinesOf(test).length ? [el("h2", {}, "Console", el("small", {}, el("a", { href: link("timeline", { t: test.begin_s }) }, "on the timeline"))), machinesOf(test).map((machine) => excerpt(machine, test))] : null,
    test.text && [el("h2", {}, "What pytest says"), el("pre", { cls: "box", tabindex: "0" }, ...shown(test.text))],
    sections.map(([title, text]) => title.startsWith("CPU") ? null : [el("h2", {}, ...shown(title)), el("pre", { cls: "box" }, ...shown(text))]),
    test.outcome === "failed" && test.replay === undefined && test.board !== "host" && el("p", { cls: "soft" }, "The machine was not kept, so it cannot be reopened."),
  )];
};

function machinesOf(test) {
  return (test.machines || []).map((name) => M.machines.get(name)).filter(Boolean);
}

/** A CPU of a postmortem: frames as a list, registers below. */
function cpu(title, text) {
  const lines = text.split("\n");
  const frames = lines.filter((line) => /^\s*#\d+ /.test(line));
  const rest = lines.filter((line) => !/^\s*#\d+ /.test(line)).join("\n").trim();
  const top = frames.length ? /#\d+ \S+ (.*?)(?: \(inlined: .*)?$/.exec(frames[0]) : null;
  return el("details", { cls: "cpu", open: true },
    el("summary", {}, title, top && el("small", {}, ...shown(top[1]))),
    frames.length ? el("ol", { cls: "frames" }, frames.map((line) => {
      const parts = /^\s*#(\d+) (\S+) (.*?)(?: at (\S+:\d+)(.*))?$/.exec(line);
      return parts ? el("li", {}, el("span", { cls: "n" }, `#${parts[1]}`),
        el("span", {}, ...shown(parts[3]), parts[4] && [" ", el("span", { cls: "where" }, ...shown(parts[4]))], el("span", { cls: "n" }, ...shown(`${parts[5] || ""}  ${parts[2]}`)))) : el("li", {}, "", ...shown(line));
    })) : null,
    rest && el("pre", { tabindex: "0", "aria-label": `registers of ${title}` }, ...shown(rest)));
}

const EXCERPT = 160;

function excerpt(machine, test) {
  const from = test.begin_s - machine.started_s - 0.5;
  const until = test.end_s - machine.started_s + 0.2;
  const during = machine.lines.filter((line) => line[0] >= from && line[0] <= until);
  const lines = (during.length ? during : machine.lines).slice(-EXCERPT);
  return el("div", { style: { marginBottom: "10px" } },
    el("p", { cls: "soft mono" }, ...shown(machine.name)),
    el("pre", { cls: "box", tabindex: "0", "aria-label": `console of ${machine.board}` }, lines.length ? lines.flatMap((line) => [
      el("span", { cls: "soft" }, `${clock(machine.started_s + line[0]).padStart(10)} ${line[1]} `), ...shown(line[2]), "\n"]) : "The log is no longer there."));
}

VIEWS.timeline = (params) => {
  const entries = [];
  for (const machine of DATA.machines) {
    for (const line of machine.lines) entries.push({ t: machine.started_s + line[0], b: machine.board, sign: line[1], text: line[2] });
    if (machine.left_out) entries.push({ t: machine.started_s, b: machine.board, sign: "!", text: `${fmt.format(machine.left_out)} bytes of this console are in its log alone: ${machine.log}` });
  }
  const run = DATA.tests.filter((test) => test.end_s && (test.machines || []).length);
  for (const test of run) {
    entries.push({ t: test.begin_s, b: test.board, test, text: `▶ ${test.id}` });
    if (test.outcome !== "passed") entries.push({ t: test.end_s, b: test.board, test, text: `${MARKS[test.outcome]} ${test.verdict}: ${nameOf(test)}` });
  }
  entries.sort((a, b) => a.t - b.t);
  const list = new VList({ height: 20, bare: true, cls: "log", label: "Console lines of all boards", open: (entry) => entry.test && openTest(entry.test), row: (entry) => el("div",
    { cls: `line ${entry.test ? "bound" : entry.sign === ">" ? "in" : entry.sign === "!" ? "note" : entry.text.startsWith("<SOH>") ? "frame" : ""}` },
    el("span", { cls: "t" }, clock(entry.t)), el("span", { cls: "b", title: entry.b }, ...shown(boardWords(entry.b).filter(Boolean).join(" "))),
    el("span", { cls: entry.test ? `mark ${entry.test.outcome}` : "" }, ...shown(entry.text))) });
  const jump = (at) => {
    let index = list.items.findIndex((entry) => entry.t >= at);
    if (index < 0) index = list.items.length - 1;
    const top = list.node.getBoundingClientRect().top + scrollY + index * list.height;
    scrollTo(0, top - document.querySelector("header").offsetHeight - 60);
    list.active = index;
    list.node.focus({ preventScroll: true });
    list.draw(true);
  };
  const strip = lanes(run, jump);
  return [
    el("h1", {}, "Consoles on one clock"),
    el("p", { cls: "legend" }, ["passed", "failed", "skipped"].map((o) => el("span", {}, el("i", { style: { background: `var(${o === "passed" ? "--pass" : o === "failed" ? "--fail" : "--frame"})` } }), o)),
      el("span", {}, el("i", { style: { background: "var(--skip-bg)" } }), "machine on"), el("span", {}, "A click, or Enter, shows the lines of that moment.")),
    el("div", { cls: "filters" }, ["+", "−", "◀", "▶", "All"].map((sign) => el("button", { cls: "button", type: "button", "aria-label": { "+": "Zoom in", "−": "Zoom out", "◀": "Earlier", "▶": "Later", All: "All of the run" }[sign], onclick: () => strip.act(sign) }, sign))),
    strip.node,
    el("div", { style: { height: "16px" } }),
    filters("timeline", params, (state, set) => [
      searched(state.q, set("q"), "Find lines"), choice("board", distinct(entries.map((entry) => entry.b)), state.b, set("b")),
    ], (state) => {
      const found = entries.filter((entry) => (!state.b || entry.b === state.b) && (!state.q || matches(state.q, entry.text)));
      list.set(found);
      if (state.t) requestAnimationFrame(() => { jump(Number(state.t)); delete state.t; });
      return plural(found.length, "line");
    }),
    list.node,
  ];
};

/** Boards as lanes, tests as bars, on a canvas: any number of tests costs the page one element. */
function lanes(tests, jump) {
  const boards = distinct(DATA.machines.map((machine) => machine.lane));
  const begin = Math.min(...DATA.machines.map((machine) => machine.started_s), 0);
  const ends = tests.map((test) => test.end_s).concat(DATA.machines.map((machine) => machine.started_s + (machine.lines.length ? machine.lines.at(-1)[0] : 0)));
  const finish = ends.reduce((a, b) => Math.max(a, b), begin + 1);
  let [from, until] = [begin, finish];
  let cursor = begin;
  const LANE = 40, TOP = 22;
  const node = el("canvas", { cls: "lanes", tabindex: "0", role: "img", "aria-label": `${boards.length} boards over ${seconds(finish - begin)}; arrows move, plus and minus zoom, Enter shows the lines there` });
  const draw = () => {
    const width = node.clientWidth || 300, height = TOP + boards.length * LANE + 8;
    node.style.height = `${height}px`;
    const scale = devicePixelRatio || 1;
    node.width = width * scale;
    node.height = height * scale;
    const g = node.getContext("2d");
    g.scale(scale, scale);
    const x = (t) => 10 + ((t - from) / (until - from)) * (width - 20);
    const paint = { passed: color("--pass"), failed: color("--fail"), skipped: color("--frame") };
    g.font = "11px ui-monospace, monospace";
    const step = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 3600, 7200].find((s) => ((until - from) / s) * 64 < width) || 14400;
    for (let t = Math.ceil(from / step) * step; t <= until; t += step) {
      g.fillStyle = color("--line");
      g.fillRect(Math.round(x(t)), TOP - 4, 1, height);
      g.fillStyle = color("--soft");
      g.fillText(step < 1 ? t.toFixed(2) : `${Math.floor(t / 60)}:${String(Math.round(t % 60)).padStart(2, "0")}`, Math.min(x(t) + 3, width - 40), 13);
    }
    boards.forEach((board, lane) => {
      const y = TOP + lane * LANE;
      g.fillStyle = color("--skip-bg");
      for (const machine of DATA.machines) {
        if (machine.lane !== board) continue;
        const end = machine.started_s + (machine.lines.length ? machine.lines.at(-1)[0] : 0);
        g.fillRect(x(machine.started_s), y + 17, Math.max(2, x(end) - x(machine.started_s)), 16);
      }
      for (const outcome of ["skipped", "passed", "failed"]) {
        g.fillStyle = paint[outcome];
        for (const test of tests) {
          if (test.board !== board || test.outcome !== outcome || test.end_s < from || test.begin_s > until) continue;
          const left = x(test.begin_s);
          const wide = Math.max(outcome === "failed" ? 3 : 1, x(test.end_s) - left - 1);
          g.fillRect(left, y + 17, wide, 16);
        }
      }
      g.fillStyle = color("--ink");
      g.fillText(boardWords(board).filter(Boolean).join(" "), 14, y + 13);
    });
    g.fillStyle = color("--accent");
    g.fillRect(x(cursor) - 1, TOP - 4, 2, height);
    VList.live.forEach((list) => list.draw()); // what is below has moved
  };
  const act = (sign) => {
    const span = until - from;
    const keep = (a, b) => { from = Math.max(begin, a); until = Math.min(finish, Math.max(b, from + 0.01)); };
    if (sign === "+") keep(cursor - (cursor - from) / 2, cursor + (until - cursor) / 2);
    else if (sign === "−") keep(from - span / 2, until + span / 2);
    else if (sign === "◀") keep(from - span / 4, Math.max(until - span / 4, begin + span));
    else if (sign === "▶") keep(Math.min(from + span / 4, finish - span), until + span / 4);
    else keep(begin, finish);
    cursor = Math.min(Math.max(cursor, from), until);
    draw();
  };
  node.addEventListener("click", (event) => {
    cursor = from + ((event.offsetX - 10) / (node.clientWidth - 20)) * (until - from);
    draw();
    jump(cursor);
  });
  node.addEventListener("keydown", (event) => {
    const step = (until - from) / 50;
    if (event.key === "ArrowLeft") cursor = Math.max(from, cursor - step);
    else if (event.key === "ArrowRight") cursor = Math.min(until, cursor + step);
    else if (event.key === "+") act("+");
    else if (event.key === "-") act("−");
    else if (event.key === "Enter") return jump(cursor);
    else return;
    event.preventDefault();
    draw();
  });
  redraw = draw;
  requestAnimationFrame(draw);
  return { node, act };
}
let redraw = null;
addEventListener("resize", () => redraw && redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw && redraw());

function standing(id) {
  const tests = M.proofs.get(id) || [];
  if (tests.some((test) => test.outcome === "failed")) return "failed";
  if (tests.some((test) => test.outcome === "passed")) return "passed";
  return tests.length ? "skipped" : "none";
}

VIEWS.requirements = (params) => {
  const rows = DATA.requirements.map(([id, text]) => ({ id, text, tests: M.proofs.get(id) || [], standing: standing(id) }));
  const words = { passed: "proved", failed: "failing", skipped: "skipped only", none: "no test ran" };
  const count = (one) => rows.filter((row) => row.standing === one).length;
  const list = new VList({ height: 54, label: "Requirements", open: (row) => { location.hash = link("requirement", { id: row.id }); }, row: (row) => el("div", { title: row.text },
    el("span", { cls: `mark ${row.standing === "none" ? "" : row.standing}`, "aria-label": words[row.standing] }, MARKS[row.standing] || "·"),
    el("span", { cls: "main" }, ...shown(row.id), el("small", {}, ...shown(row.text))),
    el("span", { cls: "side" }, row.tests.length ? plural(row.tests.length, "test") : words.none)) });
  return [
    el("h1", {}, `${fmt.format(count("passed"))} of ${plural(rows.length, "requirement")} proved`),
    shares({ passed: count("passed"), failed: count("failed"), skipped: count("skipped") + count("none") }),
    filters("requirements", params, (state, set) => [searched(state.q, set("q"), "Find requirements"), choice("standing", Object.keys(words), state.o, set("o"), words)], (state) => {
      const found = rows.filter((row) => (!state.o || row.standing === state.o) && (!state.q || matches(state.q, row.id, row.text)));
      list.set(found);
      return plural(found.length, "row");
    }),
    list.node,
  ];
};

VIEWS.requirement = (params) => {
  const id = params.get("id");
  const row = DATA.requirements.find((one) => one[0] === id) || [id, ""];
  const tests = M.proofs.get(id) || [];
  const list = new VList({ height: 54, row: (test) => testRow(test), open: openTest, label: `Tests of ${id}` });
  queueMicrotask(() => list.set([...tests].sort(by((test) => ["failed", "passed", "skipped"].indexOf(test.outcome)))));
  return [el("div", { cls: "back" }, el("a", { cls: "button", href: "#requirements" }, "← Requirements")), el("h1", {}, ...shown(id)), el("p", {}, ...shown(row[1])), el("h2", {}, "Tests that prove it", el("small", {}, plural(tests.length, "test"))), list.node];
};

const PLOTS = 48;

VIEWS.metrics = (params) => {
  const grid = el("div", { cls: "grid" });
  const more = el("button", { cls: "button", type: "button", style: { margin: "16px 0" } });
  let found = [];
  let upto = 0;
  const add = () => {
    grid.append(...found.slice(upto, upto + PLOTS).map(plot));
    upto += PLOTS;
    more.hidden = upto >= found.length;
    more.textContent = `${fmt.format(Math.max(found.length - upto, 0))} more`;
  };
  more.addEventListener("click", add);
  return [
    el("h1", {}, "Numbers over time"),
    filters("metrics", params, (state, set) => [searched(state.q, set("q"), "Find metrics"), choice("board", distinct(DATA.metrics.map((metric) => metric.place)), state.b, set("b"))], (state) => {
      found = DATA.metrics.filter((metric) => (!state.b || metric.place === state.b) && (!state.q || matches(state.q, metric.name, metric.place)));
      grid.replaceChildren();
      upto = 0;
      add();
      return plural(found.length, "metric");
    }),
    grid, more,
  ];
};

function plot(metric) {
  const values = metric.points.map((point) => point[1]);
  const last = values.at(-1);
  const compared = DATA.good && DATA.good.metrics[metric.key];
  const base = metric.baseline ?? compared;
  const all = base === null || base === undefined ? values : values.concat(base);
  const low = Math.min(...all), high = Math.max(...all), span = high - low || Math.abs(high) * 0.02 || 1;
  const W = 300, H = 80, pad = 6;
  const x = (n) => pad + (values.length > 1 ? (n / (values.length - 1)) * (W - 2 * pad) : (W - 2 * pad) / 2);
  const y = (value) => H - pad - ((value - low + (high === low ? span / 2 : 0)) / span) * (H - 2 * pad);
  const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", role: "img", "aria-label": `${values.length} values from ${number(low)} to ${number(high)} ${metric.unit}` });
  if (base !== null && base !== undefined) picture.append(svg("line", { x1: 0, x2: W, y1: y(base), y2: y(base) }));
  if (values.length > 1) picture.append(svg("path", { d: values.map((value, n) => `${n ? "L" : "M"}${x(n).toFixed(1)} ${y(value).toFixed(1)}`).join("") }));
  // A dot that stays round where the picture is stretched: a line of no length with round ends.
  picture.append(svg("path", { d: `M${x(values.length - 1).toFixed(1)} ${y(last).toFixed(1)}h0`, style: "stroke-width:7;stroke-linecap:round" }));
  const change = base ? last / base - 1 : 0;
  const worse = metric.better === "lower" ? change > 0 : change < 0;
  return el("section", { cls: "plot" },
    el("h3", {}, ...shown(metric.name)), el("small", { cls: "soft" }, ...shown(boardWords(metric.place).filter(Boolean).join(" "))),
    el("div", { cls: "value" }, number(last), " ", el("small", {}, ...shown(metric.unit), change ? [" ", el("span", { cls: worse ? "up" : "down" }, `${change > 0 ? "+" : ""}${(change * 100).toFixed(2)} %`)] : null)),
    picture,
    el("div", { cls: "ends" }, el("span", {}, metric.points[0][0].slice(0, 10)), el("span", {}, `${plural(values.length, "run")}, ${metric.better} is better`), el("span", {}, metric.points.at(-1)[0].slice(0, 10))));
}

VIEWS.coverage = (params) => {
  const rows = DATA.coverage.map(([file, run, lines]) => ({ file, run, lines, share: lines ? run / lines : 0 }));
  const run = rows.reduce((sum, row) => sum + row.run, 0), lines = rows.reduce((sum, row) => sum + row.lines, 0);
  const list = new VList({ height: 40, label: "Files", row: (row) => el("div", { title: row.file },
    el("span", { cls: "main mono" }, ...shown(row.file)), el("span", { cls: "side wide" }, `${fmt.format(row.run)} of ${fmt.format(row.lines)}`),
    el("span", { cls: "meter", "aria-hidden": "true" }, el("i", { style: { width: `${row.share * 100}%` } })), el("span", { cls: "side" }, `${(row.share * 100).toFixed(1)} %`)) });
  return [
    el("h1", {}, `${((run / Math.max(lines, 1)) * 100).toFixed(1)} % of ${fmt.format(lines)} lines executed`),
    filters("coverage", params, (state, set) => [searched(state.q, set("q"), "Find files"), choice("order", ["least"], state.o, set("o"), { "": "by name", least: "least covered first" })], (state) => {
      const found = rows.filter((row) => !state.q || matches(state.q, row.file)).sort(by((row) => (state.o === "least" ? row.share : row.file)));
      list.set(found);
      return plural(found.length, "file");
    }),
    list.node,
  ];
};

VIEWS.compare = (params) => {
  const good = DATA.good.head;
  const list = new VList({ height: 54, label: "Changes", open: (change) => change.test && openTest(change.test), row: (change) => change.test ? testRow(change.test, change.said)
    : el("div", {}, el("span", { cls: `mark ${change.kind === "better" ? "passed" : "warn"}` }, change.metric ? (change.kind === "better" ? "↓" : "↑") : "?"),
      el("span", { cls: "main" }, ...shown(change.metric ? `${change.metric.name} on ${change.metric.place}` : change.id), el("small", {}, ...shown(change.said)))) });
  return [
    el("h1", {}, M.changes.length ? plural(M.changes.length, "change") : "Nothing has changed"),
    el("p", { cls: "facts" }, fact("since", good.name, true), fact("revision", good.revision, true), fact("began", good.at.replace("T", " ").replace("+00:00", " UTC")), fact("took", seconds(DATA.good.seconds)), fact("this run", seconds(DATA.seconds))),
    filters("compare", params, (state, set) => [choice("kind", distinct(M.changes.map((change) => change.kind)), state.o, set("o"))], (state) => {
      const found = M.changes.filter((change) => !state.o || change.kind === state.o);
      list.set(found);
      return plural(found.length, "change");
    }),
    list.node,
  ];
};

// Live: machines that are on, watched through the server that this page came from.

const watched = new Map();

VIEWS.boards = () => {
  const place = el("div", {});
  const table = el("p", { cls: "facts" });
  const update = async () => {
    if (!place.isConnected) return;
    try {
      const answer = await (await fetch("api/machines")).json();
      table.replaceChildren(...answer.boards.map(([name, state]) => fact(name, state)));
      const now = new Set(answer.machines.map((machine) => machine.pid));
      for (const [pid, card] of watched) if (!now.has(pid)) { card.stop(); card.node.remove(); watched.delete(pid); }
      for (const machine of answer.machines) if (!watched.has(machine.pid)) { watched.set(machine.pid, machineCard(machine)); place.append(watched.get(machine.pid).node); }
      for (const machine of answer.machines) watched.get(machine.pid).state.textContent = machine.state;
      if (!watched.size) place.replaceChildren(el("p", { cls: "empty" }, "No machine is on."));
      else place.querySelectorAll(".empty").forEach((node) => node.remove());
    } catch (error) {
      say(`the server does not answer: ${error.message}`);
    }
    setTimeout(update, 1500);
  };
  for (const card of watched.values()) card.stop();
  watched.clear();
  queueMicrotask(update);
  return [el("h1", {}, "Boards"), table, el("h2", {}, "Machines that are on"), place];
};

function machineCard(machine) {
  const screen = el("pre", { tabindex: "0", "aria-label": `console of ${machine.id}` });
  const state = el("span", { cls: "badge info" }, machine.state);
  const source = new EventSource(`api/console?pid=${machine.pid}`);
  source.addEventListener("message", (event) => {
    const end = screen.scrollTop + screen.clientHeight >= screen.scrollHeight - 30;
    screen.append(...shown(JSON.parse(event.data).replaceAll("\r\n", "\n")));
    while (screen.childNodes.length > 400) screen.firstChild.remove();
    if (end) screen.scrollTop = screen.scrollHeight;
  });
  source.addEventListener("ended", () => source.close());
  const input = el("input", { "aria-label": `Type to ${machine.id}`, placeholder: "Type a line", autocomplete: "off" });
  const form = el("form", { onsubmit: async (event) => {
    event.preventDefault();
    const answer = await fetch(`api/type?pid=${machine.pid}`, { method: "POST", headers: { "X-Quoin-Token": sessionStorage.getItem("token") || "" }, body: `${input.value}\n` });
    if (answer.ok) input.value = "";
    else say(await answer.text());
  } }, input, el("button", { cls: "button" }, "Send"));
  const node = el("section", { cls: "machine" }, el("h3", {}, ...shown(machine.id), state, el("span", { cls: "soft" }, `QEMU ${machine.pid}, on since ${machine.since}`)), screen, sessionStorage.getItem("token") ? form : null);
  return { node, state, stop: () => source.close() };
}

async function follow() {
  let known = DATA.version;
  for (;;) {
    await new Promise((wake) => setTimeout(wake, 2000));
    try {
      const answer = await fetch(`api/run?since=${encodeURIComponent(known)}`);
      if (answer.status !== 200) continue;
      DATA = Object.assign(await answer.json(), { live: true });
      known = DATA.version;
      understand();
      const [name] = route();
      if (["overview", "tests"].includes(name) && !view.querySelector("input:focus, select:focus")) render(true);
      else drawTabs(name);
    } catch (error) {
      say(`the server does not answer: ${error.message}`);
    }
  }
}

// Ways around.

function route() {
  const [name, words] = decodeURI(location.hash.slice(1)).split("?", 2);
  const known = Object.hasOwn(VIEWS, name) && (name !== "compare" || DATA.good) ? name : "overview";
  return [known, new URLSearchParams(location.hash.slice(1).split("?").slice(1).join("?"))];
}

const TABS = [["overview", "Overview"], ["tests", "Tests"], ["timeline", "Timeline", () => DATA.machines.length], ["requirements", "Requirements", () => DATA.requirements.length],
  ["metrics", "Numbers", () => DATA.metrics.length], ["coverage", "Coverage", () => DATA.coverage.length], ["compare", "Compare", () => DATA.good], ["boards", "Boards", () => DATA.live]];
const openTabs = () => TABS.filter(([, , has]) => !has || has());

function drawTabs(name) {
  const current = { test: "tests", requirement: "requirements" }[name] || name;
  tabs.replaceChildren(...openTabs().map(([key, label]) => el("a", { href: `#${key}`, "aria-current": key === current ? "page" : null }, label,
    key === "tests" && M.counts.failed ? el("b", { "aria-label": `${M.counts.failed} failed` }, fmt.format(M.counts.failed)) : null)));
  const on = tabs.querySelector("[aria-current]");
  if (on) tabs.scrollLeft = on.offsetLeft - tabs.clientWidth / 2 + on.clientWidth / 2 - tabs.offsetLeft;
}

const scrolled = new Map();
let shownHash = null;

function render(keep) {
  const [name, params] = route();
  const y = scrollY;
  if (shownHash !== null) scrolled.set(shownHash, [y, [...VList.live][0]?.active]);
  VList.live.clear();
  redraw = null;
  drawTabs(name);
  view.replaceChildren(...VIEWS[name](params).flat(9).filter(Boolean));
  document.title = `${M.counts.failed ? `✗ ${M.counts.failed} failed` : "✓"} · ${DATA.head.name} · Quoin`;
  const back = shownHash === location.hash ? [y] : keep === "back" ? scrolled.get(location.hash) : null;
  shownHash = location.hash;
  queueMicrotask(() => {
    const list = [...VList.live][0];
    if (back && list && back[1]) { list.active = back[1]; list.draw(true); }
    scrollTo(0, back ? back[0] : 0);
    if (keep !== true) {
      if (back && list) list.node.focus({ preventScroll: true });
      else if (keep !== "first") view.focus({ preventScroll: true });
    }
    VList.live.forEach((one) => one.draw(true));
  });
}

let going = false;
addEventListener("popstate", () => { going = scrolled.has(location.hash); });
addEventListener("hashchange", () => { render(going ? "back" : undefined); going = false; });

const KEYS = [["/", "find in this view"], ["↓ ↑  j k", "move in a list (Tab reaches it)"], ["Enter", "open"], ["Esc", "back"], ["1 … 9", "views"], ["n  p", "next and previous failure"], ["?", "this"]];
const keys = document.getElementById("keys");
keys.append(el("h2", { style: { marginTop: 0 } }, "Keys"), el("dl", {}, KEYS.map(([key, what]) => [el("dt", {}, el("kbd", {}, key)), el("dd", {}, what)])), el("button", { cls: "button", onclick: () => keys.close() }, "Close"));
document.getElementById("help").addEventListener("click", () => keys.showModal());
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); view.focus(); });

addEventListener("keydown", (event) => {
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  if (event.key === "Escape") {
    if (typing) return event.target.blur();
    if (["test", "requirement"].includes(route()[0])) history.back();
    return;
  }
  if (typing) {
    const list = [...VList.live][0];
    if (event.target.type === "search" && ["ArrowDown", "Enter"].includes(event.key) && list) { event.preventDefault(); list.node.focus(); }
    return;
  }
  const search = view.querySelector("input[type=search]");
  const tab = openTabs()[Number(event.key) - 1];
  if (event.key === "/" && search) search.focus();
  else if (event.key === "?") keys.showModal();
  else if (tab) location.hash = `#${tab[0]}`;
  else if ((event.key === "n" || event.key === "p") && M.failures.length) {
    const at = M.failures.findIndex((test) => test.id === route()[1].get("id"));
    const next = at < 0 ? 0 : (at + (event.key === "n" ? 1 : -1) + M.failures.length) % M.failures.length;
    openTest(M.failures[next]);
  } else return;
  event.preventDefault();
});

if ("scrollRestoration" in history) history.scrollRestoration = "manual";
if (DATA.live) {
  const token = /[#&?]token=([\w-]+)/.exec(location.hash);
  if (token) {
    sessionStorage.setItem("token", token[1]);
    history.replaceState(null, "", "#boards");
  }
}
understand();
render("first");
if (DATA.live) follow();
