"use strict";

let state = null; // what the server says of images and pictures
let place = 0; // of the image that is shown
const TOOLS = { p: "plus", i: "minus", b: "box", d: "brush", e: "eraser", h: "hand" };

const editor = new Editor({ changed: showEditing, tapped: () => {} });
editor.moved = (part) => work(() => look(part, true));

const chosenClass = () => document.querySelector("#classes input:checked").value;
const colourOf = (name) => state.colours[state.classes.indexOf(name)];

function showEditing() {
  $("save").disabled = editor.empty();
  $("size-next").disabled = editor.clicks.length !== 1;
  for (const button of document.querySelectorAll(".tool")) {
    button.setAttribute("aria-pressed", String(button.dataset.tool === editor.tool));
  }
}

function showCounts() {
  const counts = state.classes.map((name) => `${name} ${state.counts[name]}`);
  const whole = state.classes.reduce((sum, name) => sum + state.counts[name], 0);
  $("progress").textContent = `${whole} pictures: ${counts.join(", ")}`;
  $("none").hidden = whole > 0;
  $("undo").disabled = whole === 0;
  $("done").hidden = state.classes.some((name) => state.counts[name] < state.needed);
  const tiles = $("tiles");
  tiles.replaceChildren();
  for (const crop of state.crops) {
    const button = element("button", "", element("li", "", tiles));
    button.type = "button";
    const image = element("img", "", button);
    image.loading = "lazy";
    image.alt = "";
    image.src = `api/crops/${crop.id}`;
    element("span", crop.label, button).className = "name";
    element("span", "remove", button).className = "said";
    element("span", `the picture from ${crop.file_name}`, button).className = "unseen";
    button.addEventListener("click", () => takeBack(crop.id));
  }
}

async function look(part, keep) {
  const image = state.images[place];
  await editor.show(image.image, editor.size, part, null, keep);
  $("image").alt = image.file_name;
  editor.others("");
  showEditing();
  $("view").dataset.ready = image.image;
  // The first click need not wait: SAM looks at the part now.
  await editor.prepare();
}

async function show(number) {
  $("view").dataset.ready = "";
  place = Math.max(0, Math.min(number, state.images.length - 1));
  $("by-image").value = String(place);
  $("back").disabled = place === 0;
  $("next").disabled = place === state.images.length - 1;
  const { size } = await ask(`api/images/${state.images[place].image}/size`);
  editor.size = size;
  await look([0, 0, size[1], size[0]], false);
}

const move = (by) => work(() => show(place + by));

function clear() {
  editor.keep();
  editor.mask.fill(0);
  editor.forget();
  editor.draw();
  showEditing();
}

function keep() {
  if (editor.empty()) return undefined;
  return work(async () => {
    const said = { image: editor.image, part: editor.part, pieces: editor.pieces(false), label: chosenClass() };
    const answer = await ask("api/crops", said);
    state = { ...state, ...answer };
    $("verdict").textContent = answer.note || `kept: ${said.label}`;
    clear();
    editor.others("");
    showCounts();
    // Not on a class or the button, which is disabled now: arrows move the cross again.
    $("stack").focus({ preventScroll: true });
  });
}

function takeBack(crop) {
  return work(async () => {
    const answer = await ask("api/back", { crop });
    state = { ...state, ...answer };
    $("verdict").textContent = `taken back: ${answer.gone.label}`;
    editor.others("");
    showCounts();
    $("stack").focus({ preventScroll: true });
  });
}

function chooseTool(tool) {
  editor.setTool(tool);
  showEditing();
  $("stack").focus({ preventScroll: true });
}

function brushed(by) {
  $("brush").value = Number($("brush").value) + by;
  editor.brush = Number($("brush").value);
  editor.draw();
}

function chooseClass(number) {
  const inputs = document.querySelectorAll("#classes input");
  if (number >= inputs.length) return;
  inputs[number].checked = true;
  editor.color = colourOf(chosenClass());
  editor.draw();
}

const KEYS = {
  ...Object.fromEntries(Object.entries(TOOLS).map(([key, tool]) => [key, () => chooseTool(tool)])),
  t: () => editor.nextSize(),
  "[": () => brushed(-2),
  "]": () => brushed(2),
  "+": () => editor.zoom(1 / 1.5),
  "-": () => editor.zoom(1.5),
  z: () => editor.look([0, 0, editor.size[1], editor.size[0]]),
  Enter: keep,
  Escape: clear,
  u: () => takeBack(null),
  ",": () => move(-1),
  ".": () => move(1),
  "?": () => $("help").showModal(),
};

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || !state || !editor.image) return;
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    editor.undo();
    return;
  }
  const target = event.target;
  if (event.ctrlKey || event.metaKey || event.altKey || target.tagName === "SELECT" || target.type === "range") return;
  const onStage = document.activeElement === $("stack") || document.activeElement === document.body;
  if (onStage && editor.key(event)) {
    event.preventDefault();
    return;
  }
  if (event.key === "Enter" && target.tagName === "BUTTON") return;
  if (/^[1-9]$/.test(event.key)) chooseClass(Number(event.key) - 1);
  else if (Object.hasOwn(KEYS, event.key) && (!event.repeat || "+-[]".includes(event.key))) {
    event.preventDefault();
    KEYS[event.key]();
  }
});

for (const tool of document.querySelectorAll(".tool")) tool.addEventListener("click", () => chooseTool(tool.dataset.tool));
const BUTTONS = { "size-next": "t", leave: "Escape", save: "Enter", undo: "u", back: ",", next: ".", whole: "z", nearer: "+", farther: "-", "help-open": "?" };
for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => editor.image && KEYS[key]());
$("stroke-undo").addEventListener("click", () => editor.undo());
$("brush").addEventListener("input", () => brushed(0));
$("by-image").addEventListener("change", () => work(() => show(Number($("by-image").value))));
$("classes").addEventListener("change", () => {
  editor.color = colourOf(chosenClass());
  editor.draw();
});

work(async () => {
  state = await ask("api/state");
  state.images.forEach((one, number) => { element("option", one.file_name, $("by-image")).value = String(number); });
  state.classes.forEach((name, number) => {
    const label = element("label", "", $("classes"));
    const input = element("input", "", label);
    Object.assign(input, { type: "radio", name: "class", value: name, checked: number === 0 });
    element("span", name, label).style.borderBottom = `4px solid ${colourOf(name)}`;
    if (number < 9) element("kbd", String(number + 1), label);
  });
  $("more").hidden = !state.more_images;
  $("more").textContent = `The first ${state.images.length} images; ${state.more_images} more are not offered.`;
  editor.color = colourOf(chosenClass());
  editor.setTool("plus");
  showCounts();
  await show(0);
});
