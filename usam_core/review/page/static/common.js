"use strict";

// What the pages of review and crop share: asking the server, saying what is wrong, lists of names.

const $ = (id) => document.getElementById(id);
let busy = false; // a key pressed meanwhile must not act on something else

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
    throw new Error(`The server does not answer. Start \`${document.body.dataset.command}\` again: everything that was shown as made is kept.`);
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

function fillSelect(select, values, first) {
  select.replaceChildren();
  if (first !== undefined) element("option", first, select).value = "";
  for (const value of values) element("option", value, select).value = value;
}

// A dialog that asks for one of the class names: a number at once, letters with Enter.
class NameDialog {
  constructor(names) {
    this.names = names;
    $("change-text").addEventListener("input", () => {
      this.list();
      const found = this.choices();
      // Letters wait for Enter, so that the rest of a name is no key.
      if (/^\d+$/.test(this.typed()) && found.length === 1) this.choose(found[0].name);
    });
    $("change-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const typed = this.typed();
      const exact = this.choices().find((one) => one.number === typed || one.name.toLowerCase() === typed);
      const found = exact || (typed && this.choices()[0]);
      if (found) this.choose(found.name);
    });
    $("change-cancel").addEventListener("click", () => $("change-dialog").close());
  }

  typed() {
    return $("change-text").value.trim().toLowerCase();
  }

  choices() {
    const all = this.names().map((name, number) => ({ name, number: String(number + 1) }));
    const typed = this.typed();
    if (/^\d+$/.test(typed)) return all.filter((one) => one.number.startsWith(typed));
    return all.filter((one) => one.name.toLowerCase().startsWith(typed));
  }

  list() {
    $("change-list").replaceChildren();
    for (const one of this.choices()) {
      const button = element("button", `${one.number}  ${one.name}`, element("li", "", $("change-list")));
      button.type = "button";
      button.addEventListener("click", () => this.choose(one.name));
    }
  }

  choose(name) {
    $("change-dialog").close();
    this.chosen(name);
  }

  ask(chosen) {
    this.chosen = chosen;
    $("change-text").value = "";
    this.list();
    $("change-dialog").showModal();
    $("change-text").focus();
  }
}
