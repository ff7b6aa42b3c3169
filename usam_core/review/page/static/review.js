"use strict";

const $ = (id) => document.getElementById(id);
let state = null; // what the server says of the review
let place = 0; // of the mask that is shown, in state.items
let shown = null; // that mask
let busy = false; // a key pressed meanwhile must not decide on another mask

async function ask(path, said) {
  const options = said === undefined ? {} : {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(said),
  };
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start `usam review` again: every decision that was shown as made is kept.");
  }
  const value = await answer.json();
  if (!answer.ok) throw new Error(typeof value.detail === "string" ? value.detail : JSON.stringify(value.detail));
  return value;
}

async function work(task) {
  if (busy) return;
  busy = true;
  try {
    await task();
    $("trouble").hidden = true;
  } catch (error) {
    $("trouble").textContent = error.message;
    $("trouble").hidden = false;
  } finally {
    busy = false;
  }
}

function element(kind, text, parent) {
  const made = document.createElement(kind);
  made.textContent = text;
  parent.append(made);
  return made;
}

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
  const done = state.items.filter((item) => item.verdict).length;
  $("bar").max = state.items.length;
  $("bar").value = done;
  const whole = state.items.length;
  $("progress").textContent = `mask ${place + 1} of ${whole}; ${done} decided, ${whole - done} to go`;
  const all = done === whole;
  $("done").hidden = !all;
}

function colourOf(name) {
  return state.colours[state.classes.indexOf(name)];
}

function showPictures() {
  const view = $("whole").checked ? "?whole=true" : "";
  $("image").src = `api/items/${shown.id}/image${view}`;
  $("mask").src = `api/items/${shown.id}/mask${view}`;
  $("image").alt = `part of ${shown.file_name} with a mask that the head calls ${shown.name}`;
  $("mask").hidden = !$("show").checked;
}

function showVerdict() {
  const words = { accepted: "accepted", rejected: "rejected", changed: `changed to ${shown.label}` };
  $("verdict").textContent = shown.verdict ? words[shown.verdict] : "";
  $("verdict").className = shown.verdict || "";
}

function showFacts() {
  const facts = $("facts");
  facts.replaceChildren();
  const rows = [
    ["image", shown.file_name],
    ["score", shown.score.toFixed(3)],
    ["probability", shown.probability.toFixed(3)],
    ["entropy", `${shown.entropy.toFixed(3)} nats`],
    ["other head", shown.disagreement === null ? null : `${shown.disagreement.toFixed(3)} apart`],
    ["next best", shown.runner_up],
    ["area", `${shown.area} pixels`],
  ];
  for (const [name, value] of rows) {
    if (value === null) continue;
    element("dt", name, facts);
    element("dd", value, facts);
  }
}

async function show(number) {
  place = Math.max(0, Math.min(number, state.items.length - 1));
  shown = await ask(`api/items/${state.items[place].id}`);
  $("question").textContent = "Is this a good mask of ";
  element("b", shown.name, $("question")).style.borderColor = colourOf(shown.name);
  $("question").append("?");
  showPictures();
  showVerdict();
  showFacts();
  showProgress();
  showPrecision();
  const following = state.items[place + 1];
  if (following) new Image().src = `api/items/${following.id}/image${$("whole").checked ? "?whole=true" : ""}`;
}

function nextOpen(from) {
  const order = [...state.items.keys()];
  const after = [...order.slice(from), ...order.slice(0, from)];
  const found = after.find((number) => !state.items[number].verdict);
  return found === undefined ? place : found;
}

function decide(label) {
  const item = shown.id;
  return work(async () => {
    state = { ...state, ...(await ask("api/decisions", { item, label })) };
    await show(nextOpen(place + 1));
  });
}

function undo() {
  return work(async () => {
    const answer = await ask("api/undo", {});
    state = { ...state, ...answer };
    const number = state.items.findIndex((item) => item.id === answer.undone);
    await show(number < 0 ? place : number);
  });
}

const move = (by) => work(() => show(place + by));

function choices() {
  const typed = $("change-text").value.trim().toLowerCase();
  const all = state.classes.map((name, number) => ({ name, number: String(number + 1) }));
  if (/^\d+$/.test(typed)) return all.filter((one) => one.number.startsWith(typed));
  return all.filter((one) => one.name.toLowerCase().startsWith(typed));
}

function choose(name) {
  $("change-dialog").close();
  decide(name);
}

function showChoices() {
  const list = $("change-list");
  list.replaceChildren();
  for (const one of choices()) {
    const button = element("button", `${one.number}  ${one.name}`, element("li", "", list));
    button.type = "button";
    button.addEventListener("click", () => choose(one.name));
  }
}

function change() {
  if (busy) return;
  $("change-text").value = "";
  showChoices();
  $("change-dialog").showModal();
  $("change-text").focus();
}

$("change-text").addEventListener("input", () => {
  showChoices();
  const found = choices();
  // A whole number is meant at once; letters wait for Enter, so that the rest of a name is no key.
  if (/^\d+$/.test($("change-text").value.trim()) && found.length === 1) choose(found[0].name);
});
$("change-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const typed = $("change-text").value.trim();
  const exact = choices().find((one) => one.number === typed || one.name.toLowerCase() === typed.toLowerCase());
  const found = exact || (typed && choices()[0]);
  if (found) choose(found.name);
});
$("change-cancel").addEventListener("click", () => $("change-dialog").close());

function toggle(id) {
  $(id).checked = !$(id).checked;
  showPictures();
}

const KEYS = {
  a: () => decide(shown.name),
  r: () => decide(null),
  c: change,
  u: undo,
  ArrowLeft: () => move(-1),
  ArrowRight: () => move(1),
  m: () => toggle("show"),
  z: () => toggle("whole"),
  "?": () => $("help").showModal(),
};
const BUTTONS = { accept: "a", reject: "r", change: "c", undo: "u", back: "ArrowLeft", next: "ArrowRight", "help-open": "?" };

document.addEventListener("keydown", (event) => {
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) return;
  // A key held down would decide on masks that nobody has seen.
  const moves = event.key.startsWith("Arrow");
  if (!shown || !(event.key in KEYS) || (event.repeat && !moves)) return;
  event.preventDefault();
  KEYS[event.key]();
});
for (const [id, key] of Object.entries(BUTTONS)) $(id).addEventListener("click", () => shown && KEYS[key]());
for (const id of ["show", "whole"]) $(id).addEventListener("change", () => shown && showPictures());

work(async () => {
  state = await ask("api/state");
  await show(nextOpen(0));
});
