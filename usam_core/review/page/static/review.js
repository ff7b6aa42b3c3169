"use strict";

let state = null; // what the server says of the review
let list = []; // the masks that the filters let pass
let place = 0; // of the mask that is shown, in `list`
let shown = null; // that mask
let lastClass = null; // of the object that was added last
let drawing = null; // what an outline is drawn for: the id of an item, or null for a new object
let inGrid = false;
let page = 0;
const chosen = new Set(); // masks chosen in the grid
const PAGE = 48;
const SMALL = 32 * 32; // pixels, as COCO counts
const LARGE = 96 * 96;
const TOOLS = { p: "plus", i: "minus", b: "box", d: "brush", e: "eraser", k: "cut", h: "hand" };
const names = new NameDialog(() => state.classes);

const editor = new Editor({ changed: () => showEditing(), tapped: joinAt });
editor.moved = (part) => work(() => lookAt(part, true));

const percent = (share) => `${(100 * share).toFixed(0)} %`;

function showPrecision() {
  const body = $("precision");
  body.replaceChildren();
  for (const one of state.precision) {
    const row = element("tr", "", body);
    element("th", one.name, row).scope = "row";
    element("td", one.precision === null ? "–" : percent(one.precision), row);
    element("td", one.sample ? `${percent(one.low)} to ${percent(one.high)}` : "–", row);
    const passed = one.skipped ? `, ${one.skipped} passed over` : "";
    element("td", `${one.sample} of ${one.masks}${passed}`, row);
  }
}

function showProgress() {
  const done = list.filter((item) => item.verdict).length;
  const whole = list.length;
  $("bar").max = whole || 1;
  $("bar").value = done;
  const place_ = inGrid || !whole ? `${whole} masks` : `mask ${place + 1} of ${whole}`;
  $("progress").textContent = `${place_}; ${done} decided, ${whole - done} to go`;
  $("done").hidden = inGrid || done !== whole || !whole || Boolean(drawing);
}

const nameOf = (item) => item.label || item.name;
const colourOf = (name) => state.colours[state.classes.indexOf(name)] || "#888888";

function saidOf(item) {
  const words = { changed: `changed to ${item.label}`, drawn: `drawn: ${item.label}`, added: `added: ${item.label}` };
  return item.verdict ? words[item.verdict] || item.verdict : "";
}

function showVerdict() {
  $("verdict").textContent = shown ? saidOf(shown) : "";
  $("verdict").className = (shown && shown.verdict) || "";
}

function showFacts() {
  const facts = $("facts");
  facts.replaceChildren();
  const number = (value, digits = 3) => (value === null || value === undefined ? null : value.toFixed(digits));
  const rows = [
    ["image", shown.file_name],
    ["score", shown.added ? null : number(shown.score)],
    ["probability", shown.added ? null : number(shown.probability)],
    ["entropy", shown.added ? null : `${number(shown.entropy)} nats`],
    ["other head", shown.disagreement === null ? null : `${number(shown.disagreement)} apart`],
    ["next best", shown.runner_up],
    ["area", `${shown.area} pixels`],
  ];
  for (const [name, value] of rows) {
    if (value === null || value === undefined) continue;
    element("dt", name, facts);
    element("dd", value, facts);
  }
}

function showOthers() {
  editor.others($("show-others").checked || (drawing && !drawing.item) || editor.tool === "pick" ? (shown && (!drawing || drawing.item) ? shown.id : "") : null);
}

async function lookAt(part, keep = false) {
  const item = drawing ? drawing.item : shown && shown.id;
  const read = item ? (box) => ask(`api/items/${item}/outline?box=${box}`) : null;
  await editor.show(editor.image || shown.image, editor.size || shown.size, part, read, keep);
  showOthers();
  if (drawing) {
    showEditing();
    await editor.prepare();
  }
}

async function show(number) {
  $("view").dataset.ready = "";
  place = Math.max(0, Math.min(number, list.length - 1));
  showPrecision();
  showEmpty();
  if (!list.length) {
    shown = null;
    showProgress();
    return;
  }
  shown = await ask(`api/items/${list[place].id}`);
  $("question").textContent = shown.added ? "You added this " : "Is this a good mask of ";
  element("b", shown.name, $("question")).style.borderColor = colourOf(shown.name);
  $("question").append(shown.added ? "." : "?");
  editor.color = colourOf(nameOf(shown));
  editor.image = shown.image;
  editor.size = shown.size;
  await lookAt($("whole").checked ? [0, 0, shown.size[1], shown.size[0]] : shown.part);
  $("image").alt = `part of ${shown.file_name} with a mask that ${shown.added ? "you call" : "the head calls"} ${shown.name}`;
  showVerdict();
  showFacts();
  showProgress();
  $("view").dataset.ready = shown.id;
}

function showEmpty() {
  const nothing = !list.length;
  $("nothing").hidden = !nothing || Boolean(drawing);
  $("view").hidden = inGrid || (nothing && !drawing);
  $("side").hidden = inGrid || (nothing && !drawing);
  $("grid").hidden = !inGrid || nothing;
}

function nextOpen(from) {
  const order = [...list.keys()];
  const after = [...order.slice(from), ...order.slice(0, from)];
  const found = after.find((number) => !list[number].verdict);
  return found === undefined ? Math.min(place, list.length - 1) : found;
}

// What the server says has changed, put into the lists; new masks stand behind the shown one.
function take(answer) {
  state = { ...state, decided: answer.decided, precision: answer.precision };
  for (const one of answer.changed) {
    const old = state.items.find((item) => item.id === one.id);
    if (old) Object.assign(old, one);
    else {
      state.items.push(one);
      list.splice(place + 1, 0, one);
    }
  }
  const gone = new Set(answer.gone);
  state.items = state.items.filter((item) => !gone.has(item.id));
  list = list.filter((item) => !gone.has(item.id));
  place = Math.max(0, Math.min(place, list.length - 1));
}

const targets = () => {
  if (!inGrid) return shown ? [shown.id] : [];
  if (chosen.size) return [...chosen];
  const focused = document.activeElement && document.activeElement.dataset.item;
  return focused ? [focused] : [];
};

function decide(label) {
  const items = targets();
  if (!items.length) return undefined;
  return work(async () => {
    const groups = new Map();
    for (const id of items) {
      const one = state.items.find((item) => item.id === id);
      // "Accept" takes each mask's own name.
      const name = label === undefined ? (one.verdict === "rejected" ? one.name : nameOf(one)) : label;
      groups.set(name, [...(groups.get(name) || []), id]);
    }
    for (const [name, ids] of groups) take(await ask("api/decisions", { items: ids, label: name }));
    await after(() => show(nextOpen(place + 1)));
  });
}

async function after(otherwise) {
  if (inGrid) {
    chosen.clear();
    showGrid();
  } else await otherwise();
}

function undo() {
  return work(async () => {
    const answer = await ask("api/undo", {});
    take(answer);
    const number = list.findIndex((item) => answer.undone.includes(item.id));
    await after(() => show(number < 0 ? place : number));
  });
}

const move = (by) => work(() => show(place + by));

function change() {
  if (busy || !targets().length) return;
  names.ask((name) => decide(name));
}

function toggle(id) {
  $(id).checked = !$(id).checked;
  $(id).dispatchEvent(new Event("change"));
}

// Drawing

function showEditing() {
  $("save").disabled = editor.empty();
  for (const button of document.querySelectorAll(".tool")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === editor.tool));
  }
  $("size-next").disabled = editor.clicks.length !== 1;
}

function chooseTool(tool) {
  editor.setTool(tool);
  if (tool === "cut") $("apart").checked = true;
  showEditing();
  $("stack").focus({ preventScroll: true });
}

function draw(item) {
  return work(async () => {
    if (!shown && !drawing) return;
    drawing = { item: item ? shown.id : null };
    $("editing-title").textContent = item ? "Outline" : "New object";
    fillSelect($("edit-class"), state.classes);
    $("edit-class").value = item ? nameOf(shown) : lastClass || nameOf(shown);
    editor.color = colourOf($("edit-class").value);
    $("apart").checked = false;
    $("editing").hidden = false;
    $("buttons").hidden = true;
    editor.setTool("plus");
    await lookAt(item ? editor.part : [0, 0, editor.size[1], editor.size[0]]);
    showProgress();
    $("stack").focus({ preventScroll: true });
  });
}

function endDrawing() {
  drawing = null;
  $("editing").hidden = true;
  $("buttons").hidden = false;
  editor.setTool("look");
}

function keepDrawing() {
  if (editor.empty()) return undefined;
  return work(async () => {
    const label = $("edit-class").value;
    const said = { image: editor.image, item: drawing.item, part: editor.part, pieces: editor.pieces($("apart").checked), label };
    const answer = await ask("api/drawn", said);
    if (!drawing.item) lastClass = label;
    const [first] = answer.changed;
    endDrawing();
    take(answer);
    const number = list.findIndex((one) => first && one.id === first.id);
    await show(number < 0 ? place : number);
  });
}

function leaveDrawing() {
  return work(async () => {
    endDrawing();
    await show(place);
  });
}

// Joining

function join() {
  if (inGrid) {
    const items = targets();
    return work(async () => {
      take(await ask("api/merged", { items }));
      await after(() => {});
    });
  }
  if (!shown) return undefined;
  const on = editor.tool !== "pick";
  editor.setTool(on ? "pick" : "look");
  $("join").setAttribute("aria-pressed", String(on));
  $("verdict").textContent = on ? "Choose the mask that is the same object." : saidOf(shown);
  showOthers();
  $("stack").focus({ preventScroll: true });
  return undefined;
}

function joinAt([x, y]) {
  return work(async () => {
    const found = await ask(`api/images/${shown.image}/at?x=${x}&y=${y}`);
    const other = found.items.find((one) => one.id !== shown.id);
    if (!other) throw new Error("No other mask lies there. Choose one whose outline is shown, or press j again to leave this.");
    take(await ask("api/merged", { items: [shown.id, other.id] }));
    endJoin();
    await show(list.findIndex((one) => one.id === shown.id));
  });
}

function endJoin() {
  editor.setTool("look");
  $("join").setAttribute("aria-pressed", "false");
}

// Filters

function passes(item, limit) {
  const wanted = (id) => $(id).value;
  const sizes = { small: item.area < SMALL, large: item.area > LARGE };
  sizes.medium = !sizes.small && !sizes.large;
  const verdicts = { "": true, open: !item.verdict, any: Boolean(item.verdict) };
  return (
    (!wanted("by-class") || nameOf(item) === wanted("by-class"))
    && (!wanted("by-image") || item.file_name === wanted("by-image"))
    && (!wanted("by-size") || sizes[wanted("by-size")])
    && (limit === null || (!item.added && item.entropy >= limit))
    && (wanted("by-verdict") in verdicts ? verdicts[wanted("by-verdict")] : item.verdict === wanted("by-verdict"))
  );
}

async function filter() {
  // What was drawn belongs to a mask that may not be shown any more.
  if (drawing) endDrawing();
  const share = Number($("by-doubt").value);
  const doubts = state.items.filter((item) => !item.added).map((item) => item.entropy).sort((a, b) => b - a);
  const limit = share && doubts.length ? doubts[Math.max(0, Math.ceil(share * doubts.length) - 1)] : null;
  list = state.items.filter((item) => passes(item, limit));
  page = 0;
  chosen.clear();
  const empty = state.empty.find((one) => one.file_name === $("by-image").value);
  if (!list.length && empty) {
    await openEmpty(empty);
    return;
  }
  if (inGrid) {
    showEmpty();
    showGrid();
  } else await show(nextOpen(0));
}

// An image in which nothing was found: what the head missed is added there.
async function openEmpty(one) {
  const { size } = await ask(`api/images/${one.image}/size`);
  shown = null;
  inGrid = false;
  drawing = { item: null };
  Object.assign(editor, { image: one.image, size });
  fillSelect($("edit-class"), state.classes);
  if (lastClass) $("edit-class").value = lastClass;
  editor.color = colourOf($("edit-class").value);
  $("question").textContent = `Nothing was found in ${one.file_name}.`;
  $("editing-title").textContent = "New object";
  $("editing").hidden = false;
  $("buttons").hidden = true;
  showEmpty();
  editor.setTool("plus");
  await lookAt([0, 0, size[1], size[0]]);
  $("image").alt = one.file_name;
  showProgress();
}

function openFilters(open) {
  $("filters").hidden = !open;
  $("filters-open").setAttribute("aria-expanded", String(open));
  if (open) $("by-class").focus();
}

// The grid

function showGrid() {
  const last = Math.max(0, Math.ceil(list.length / PAGE) - 1);
  page = Math.max(0, Math.min(page, last));
  const focused = document.activeElement && document.activeElement.dataset.item;
  const tiles = $("tiles");
  tiles.replaceChildren();
  for (const item of list.slice(page * PAGE, (page + 1) * PAGE)) {
    const button = element("button", "", element("li", "", tiles));
    button.type = "button";
    button.dataset.item = item.id;
    button.setAttribute("aria-pressed", String(chosen.has(item.id)));
    const image = element("img", "", button);
    image.loading = "lazy";
    image.alt = "";
    image.src = `api/items/${item.id}/thumbnail?t=${item.verdict || ""}${item.area}${nameOf(item)}`;
    element("span", nameOf(item), button).className = "name";
    element("span", saidOf(item) || "not yet", button).className = `said ${item.verdict || ""}`;
    button.addEventListener("click", () => choose(button));
    button.addEventListener("dblclick", () => openTile(item.id));
  }
  $("page-number").textContent = `${page + 1} of ${last + 1}`;
  $("page-back").disabled = page === 0;
  $("page-next").disabled = page === last;
  $("pages").hidden = last === 0;
  const found = tiles.querySelector(`[data-item="${focused}"]`) || tiles.querySelector("button");
  if (found && inGrid && !$("filters").contains(document.activeElement)) found.focus();
  showProgress();
  showPrecision();
}

function choose(button) {
  const id = button.dataset.item;
  if (chosen.has(id)) chosen.delete(id);
  else chosen.add(id);
  button.setAttribute("aria-pressed", String(chosen.has(id)));
}

function openTile(id) {
  return work(async () => {
    setGrid(false);
    await show(list.findIndex((item) => item.id === id));
  });
}

function setGrid(on) {
  inGrid = on;
  $("grid-open").setAttribute("aria-pressed", String(on));
  showEmpty();
  if (on) {
    page = Math.floor(place / PAGE);
    chosen.clear();
    showGrid();
  }
}

function toggleGrid() {
  if (drawing) return undefined;
  if (!inGrid) return setGrid(true);
  const focused = document.activeElement && document.activeElement.dataset.item;
  return focused ? openTile(focused) : work(async () => {
    setGrid(false);
    await show(place);
  });
}

function gridKey(event) {
  const tiles = [...$("tiles").querySelectorAll("button")];
  const at = tiles.indexOf(document.activeElement);
  if (event.key === "Enter" && at >= 0) {
    openTile(tiles[at].dataset.item);
    return true;
  }
  if (!(event.key in ARROWS) || at < 0) return false;
  const top = tiles[0].offsetTop;
  const wide = Math.max(1, tiles.findIndex((tile) => tile.offsetTop !== top) < 0 ? tiles.length : tiles.findIndex((tile) => tile.offsetTop !== top));
  const [x, y] = ARROWS[event.key];
  const to = Math.max(0, Math.min(tiles.length - 1, at + x + y * wide));
  tiles[to].focus();
  return true;
}

// Keys

const JUDGING = {
  a: () => decide(),
  r: () => decide(null),
  c: change,
  o: () => !inGrid && draw(true),
  n: () => !inGrid && draw(false),
  j: join,
  u: undo,
  g: toggleGrid,
  f: () => openFilters($("filters").hidden),
  ArrowLeft: () => !inGrid && move(-1),
  ArrowRight: () => !inGrid && move(1),
  m: () => toggle("show"),
  v: () => toggle("show-others"),
  z: () => toggle("whole"),
  "+": () => !inGrid && editor.zoom(1 / 1.5, [editor.columns / 2, editor.rows / 2]),
  "-": () => !inGrid && editor.zoom(1.5, [editor.columns / 2, editor.rows / 2]),
  "?": () => $("help").showModal(),
};

function brushed(by) {
  $("brush").value = Number($("brush").value) + by;
  editor.brush = Number($("brush").value);
  editor.draw();
}

const DRAWING = {
  ...Object.fromEntries(Object.entries(TOOLS).map(([key, tool]) => [key, () => chooseTool(tool)])),
  t: () => editor.nextSize(),
  s: () => toggle("apart"),
  "[": () => brushed(-2),
  "]": () => brushed(2),
  "+": () => editor.zoom(1 / 1.5),
  "-": () => editor.zoom(1.5),
  v: () => toggle("show-others"),
  Enter: keepDrawing,
  Escape: leaveDrawing,
  "?": () => $("help").showModal(),
};

const typing = (target) => /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName) && target.type !== "checkbox";

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || !state) return;
  if (drawing && event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    editor.undo();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
  const onStage = document.activeElement === $("stack") || document.activeElement === document.body;
  if (!inGrid && onStage && editor.key(event)) {
    event.preventDefault();
    return;
  }
  if (inGrid && gridKey(event)) {
    event.preventDefault();
    return;
  }
  if (event.key === "Escape" && editor.tool === "pick") {
    join();
    return;
  }
  const keys = drawing ? DRAWING : JUDGING;
  // Enter on a button is the button's.
  if (event.key === "Enter" && event.target.tagName === "BUTTON") return;
  // A key held down would decide on masks that nobody has seen.
  const moves = event.key.startsWith("Arrow") || "+-[]".includes(event.key);
  if (!Object.hasOwn(keys, event.key) || (event.repeat && !moves)) return;
  event.preventDefault();
  keys[event.key]();
});

const BUTTONS = {
  accept: "a", reject: "r", change: "c", edit: "o", join: "j", add: "n", undo: "u", back: "ArrowLeft",
  next: "ArrowRight", "help-open": "?", "grid-open": "g", "filters-open": "f",
};
for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => state && JUDGING[key]());
for (const tool of document.querySelectorAll(".tool")) tool.addEventListener("click", () => chooseTool(tool.dataset.tool));
$("size-next").addEventListener("click", () => editor.nextSize());
$("stroke-undo").addEventListener("click", () => editor.undo());
$("save").addEventListener("click", keepDrawing);
$("leave").addEventListener("click", leaveDrawing);
$("nearer").addEventListener("click", () => shown && editor.zoom(1 / 1.5));
$("farther").addEventListener("click", () => shown && editor.zoom(1.5));
$("brush").addEventListener("input", () => brushed(0));
$("edit-class").addEventListener("change", () => {
  editor.color = colourOf($("edit-class").value);
  editor.draw();
});
$("page-back").addEventListener("click", () => { page -= 1; showGrid(); });
$("page-next").addEventListener("click", () => { page += 1; showGrid(); });
$("show").addEventListener("change", () => editor.draw());
$("show-others").addEventListener("change", () => editor.image && showOthers());
$("whole").addEventListener("change", () => shown && editor.look($("whole").checked ? [0, 0, shown.size[1], shown.size[0]] : shown.part));
$("filters").addEventListener("change", () => work(filter));
$("filters").addEventListener("submit", (event) => event.preventDefault());
$("filters").addEventListener("reset", () => setTimeout(() => work(filter)));
$("nothing-reset").addEventListener("click", () => $("filters").reset());

work(async () => {
  state = await ask("api/state");
  fillSelect($("by-class"), state.classes, "all");
  const files = [...new Set(state.items.map((item) => item.file_name))].sort();
  fillSelect($("by-image"), files, "all");
  for (const one of state.empty) element("option", `${one.file_name} (nothing found)`, $("by-image")).value = one.file_name;
  list = [...state.items];
  await show(nextOpen(0));
});
