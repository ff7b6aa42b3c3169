"use strict";

// A part of an image with a mask on it, and the tools that change the mask.

const LONGEST = 1024; // of the grid that is drawn on, as in drawing.py
const MIN_PART = 16; // pixels of the image: nothing is seen of less
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function fromRuns(runs, count) {
  const mask = new Uint8Array(count);
  let place = 0;
  runs.forEach((run, number) => {
    if (number % 2) mask.fill(1, place, place + run);
    place += run;
  });
  return mask;
}

function toRuns(mask) {
  const runs = [];
  let value = 0;
  let length = 0;
  for (const cell of mask) {
    if (cell === value) length += 1;
    else {
      runs.push(length);
      value = cell;
      length = 1;
    }
  }
  runs.push(length);
  return runs;
}

// The parts of a mask that touch each other along a side, the largest first.
function partsOf(mask, columns) {
  const seen = new Uint8Array(mask.length);
  const parts = [];
  for (let start = 0; start < mask.length; start += 1) {
    if (!mask[start] || seen[start]) continue;
    const part = [];
    const left = [start];
    seen[start] = 1;
    while (left.length) {
      const at = left.pop();
      part.push(at);
      const column = at % columns;
      const near = [at - columns, at + columns];
      if (column > 0) near.push(at - 1);
      if (column < columns - 1) near.push(at + 1);
      for (const next of near) {
        if (next >= 0 && next < mask.length && mask[next] && !seen[next]) {
          seen[next] = 1;
          left.push(next);
        }
      }
    }
    parts.push(part);
  }
  return parts.sort((a, b) => b.length - a.length);
}

class Editor {
  // `changed` is called after each change of the mask; `tapped` gets pixels of the image where the
  // tool is "pick".
  constructor({ changed, tapped }) {
    this.changed = changed;
    this.tapped = tapped;
    this.stage = $("stack");
    this.canvas = $("mask");
    this.paper = this.canvas.getContext("2d");
    this.tool = "look";
    this.brush = 12;
    this.color = "#1d4ed8";
    this.image = null;
    this.cross = null;
    this.drag = null;
    this.stage.addEventListener("pointerdown", (event) => this.down(event));
    this.stage.addEventListener("pointermove", (event) => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) this.stage.addEventListener(end, (event) => this.up(event));
    this.stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    this.stage.addEventListener("contextmenu", (event) => this.tool !== "look" && event.preventDefault());
  }

  grid(part = this.part) {
    const sides = [part[3] - part[1], part[2] - part[0]];
    const scale = Math.min(1, LONGEST / Math.max(...sides));
    return sides.map((side) => Math.max(1, Math.floor(side * scale + 0.5)));
  }

  // Show a part of an image; `read` gives the runs of the mask on it, or nothing. With `keep`, what
  // is drawn now stays drawn.
  async show(image, size, part, read, keep = false) {
    const drawn = keep ? this.drawn(part) : null;
    const box = part.join(",");
    const [answer] = await Promise.all([
      read ? read(box) : null,
      new Promise((ready, wrong) => {
        $("image").onload = ready;
        $("image").onerror = () => wrong(new Error(`The image cannot be shown: ${box} of ${image}. It is gone, or changed since it was labelled; run \`usam run\` again.`));
        $("image").src = `api/images/${image}/part?box=${box}`;
      }),
    ]);
    Object.assign(this, { image, size, part });
    const [rows, columns] = this.grid();
    this.rows = rows;
    this.columns = columns;
    this.loaded = answer ? fromRuns(answer.runs, rows * columns) : new Uint8Array(rows * columns);
    this.mask = drawn ? this.loaded.map((cell, at) => drawn(this.centre(at)) ?? cell) : this.loaded.slice();
    this.history = [];
    this.forget();
    this.cross = [columns / 2, rows / 2];
    this.stage.style.aspectRatio = `${columns} / ${rows}`;
    this.stage.style.setProperty("--ratio", columns / rows);
    this.draw();
  }

  // What was drawn since the mask was loaded, by pixels of the image; nothing where nothing was. A
  // part that does not show all of it is refused.
  drawn([left, top, right, bottom]) {
    const { mask, loaded, rows, columns, part } = this;
    const changed = mask.map((cell, at) => cell !== loaded[at]);
    if (!changed.includes(1)) return null;
    changed.forEach((cell, at) => {
      const [x, y] = cell ? this.centre(at) : [left, top];
      if (x < left || x > right || y < top || y > bottom) {
        throw new Error("That view leaves out some of what you have drawn, which would be lost. Keep the outline first, or take the drawing back.");
      }
    });
    return ([x, y]) => {
      const column = Math.floor(((x - part[0]) / (part[2] - part[0])) * columns);
      const row = Math.floor(((y - part[1]) / (part[3] - part[1])) * rows);
      if (column < 0 || column >= columns || row < 0 || row >= rows) return undefined;
      const at = row * columns + column;
      return changed[at] ? mask[at] : undefined;
    };
  }

  forget() {
    this.clicks = [];
    this.start = null;
    this.sizeAsked = 0;
  }

  others(but) {
    const shown = but !== null;
    $("others").hidden = !shown;
    if (shown) $("others").src = `api/images/${this.image}/others?box=${this.part.join(",")}&but=${but}&t=${Date.now()}`;
  }

  setTool(tool) {
    this.tool = tool;
    this.stage.dataset.tool = tool;
    this.drag = null;
    if (tool !== "plus" && tool !== "minus") this.forget();
    this.draw();
  }

  keep() {
    this.history.push(this.mask.slice());
    if (this.history.length > 50) this.history.shift();
  }

  undo() {
    if (!this.history.length) return false;
    this.mask = this.history.pop();
    this.forget();
    this.draw();
    this.changed();
    return true;
  }

  empty() {
    return !this.mask.includes(1);
  }

  // The mask, or each part of it by itself.
  pieces(apart) {
    if (!apart) return [toRuns(this.mask)];
    return partsOf(this.mask, this.columns).map((part) => {
      const one = new Uint8Array(this.mask.length);
      for (const at of part) one[at] = 1;
      return toRuns(one);
    });
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * this.columns,
      ((event.clientY - box.top) / box.height) * this.rows,
    ];
  }

  // The middle of a cell of the grid, pixels of the image.
  centre(at) {
    return this.pixel([(at % this.columns) + 0.5, Math.floor(at / this.columns) + 0.5]);
  }

  pixel([x, y]) {
    const [left, top, right, bottom] = this.part;
    return [left + (x / this.columns) * (right - left), top + (y / this.rows) * (bottom - top)];
  }

  down(event) {
    if (!this.image || this.tool === "look" || busy) return;
    event.preventDefault();
    this.stage.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    this.begin(this.at(event), event.button === 2 || event.shiftKey);
  }

  move(event) {
    if (!this.image || this.tool === "look") return;
    this.cross = this.at(event);
    if (this.drag) this.go(this.cross);
    else this.draw();
  }

  up(event) {
    if (this.drag) this.end(this.at(event));
  }

  begin(at, other) {
    if (this.tool === "plus" || this.tool === "minus") {
      this.click(at, (this.tool === "plus") !== other);
    } else if (this.tool === "pick") {
      this.tapped(this.pixel(at).map(Math.floor));
    } else {
      this.drag = { from: at, last: at };
      if (this.tool === "brush" || this.tool === "eraser" || this.tool === "cut") this.keep();
      this.go(at);
    }
  }

  go(at) {
    const { from, last } = this.drag;
    if (this.tool === "brush") this.stroke(last, at, this.brush, 1);
    if (this.tool === "eraser") this.stroke(last, at, this.brush, 0);
    this.drag.last = at;
    this.draw();
    if (this.tool === "box" || this.tool === "cut") this.rubber(from, at);
  }

  end(at) {
    const { from } = this.drag;
    this.drag = null;
    const box = [Math.min(from[0], at[0]), Math.min(from[1], at[1]), Math.max(from[0], at[0]), Math.max(from[1], at[1])];
    if (this.tool === "cut") this.stroke(from, at, Math.max(1.5, this.columns / 200), 0);
    if (this.tool === "hand") this.pan(from[0] - at[0], from[1] - at[1]);
    else if (this.tool === "box" && box[2] - box[0] > 1 && box[3] - box[1] > 1) this.prompt({ box });
    else {
      this.draw();
      this.changed();
    }
  }

  stroke(from, to, radius, value) {
    const steps = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1]) / Math.max(0.5, radius / 3)));
    for (let step = 0; step <= steps; step += 1) {
      const x = from[0] + ((to[0] - from[0]) * step) / steps;
      const y = from[1] + ((to[1] - from[1]) * step) / steps;
      const bottom = Math.min(this.rows - 1, Math.ceil(y + radius));
      for (let row = Math.max(0, Math.floor(y - radius)); row <= bottom; row += 1) {
        const reach = radius * radius - (row + 0.5 - y) ** 2;
        if (reach < 0) continue;
        const wide = Math.sqrt(reach);
        const first = Math.max(0, Math.round(x - wide));
        const behind = Math.min(this.columns, Math.max(first + 1, Math.round(x + wide)));
        if (first < behind) this.mask.fill(value, row * this.columns + first, row * this.columns + behind);
      }
    }
  }

  click(at, positive) {
    if (!this.clicks.length) this.start = this.empty() ? null : toRuns(this.mask);
    this.clicks.push([at[0], at[1], positive]);
    return this.prompt({ clicks: this.clicks, start: this.start, size: 0 });
  }

  nextSize() {
    if (this.clicks.length !== 1 || this.start) return;
    this.sizeAsked = (this.sizeAsked % 3) + 1;
    this.prompt({ clicks: this.clicks, size: this.sizeAsked });
  }

  prompt(said) {
    return work(async () => {
      this.stage.dataset.waiting = "";
      try {
        const answer = await ask("api/prompt", { image: this.image, part: this.part, ...said });
        this.keep();
        this.mask = fromRuns(answer.runs, this.rows * this.columns);
        this.stage.dataset.seconds = answer.seconds.toFixed(4);
        this.draw();
        this.changed();
      } finally {
        delete this.stage.dataset.waiting;
      }
    });
  }

  // Have SAM look at the part before the first click.
  async prepare() {
    this.stage.dataset.waiting = "";
    try {
      await ask("api/prepare", { image: this.image, part: this.part });
    } finally {
      delete this.stage.dataset.waiting;
    }
  }

  // A part that is `factor` times as long and wide, around a place of the grid.
  zoomed(factor, at = this.cross) {
    const [height, width] = this.size;
    const [left, top, right, bottom] = this.part;
    const sides = [
      Math.min(width, Math.max(MIN_PART, Math.round((right - left) * factor))),
      Math.min(height, Math.max(MIN_PART, Math.round((bottom - top) * factor))),
    ];
    const [x, y] = this.pixel(at);
    const share = [at[0] / this.columns, at[1] / this.rows];
    return this.within(x - share[0] * sides[0], y - share[1] * sides[1], sides[0], sides[1]);
  }

  within(left, top, wide, high) {
    const [height, width] = this.size;
    const x = Math.round(Math.min(Math.max(0, left), width - wide));
    const y = Math.round(Math.min(Math.max(0, top), height - high));
    return [x, y, x + wide, y + high];
  }

  pan(x, y) {
    const [left, top, right, bottom] = this.part;
    const [dx, dy] = [(x / this.columns) * (right - left), (y / this.rows) * (bottom - top)];
    this.look(this.within(left + dx, top + dy, right - left, bottom - top));
  }

  zoom(factor, at) {
    this.look(this.zoomed(factor, at));
  }

  wheel(event) {
    if (!this.image || this.tool === "look" || event.ctrlKey || busy || this.drag) return;
    event.preventDefault();
    this.zoom(event.deltaY > 0 ? 1.5 : 1 / 1.5, this.at(event));
  }

  look(part) {
    if (part.join() !== this.part.join()) this.moved(part);
  }

  // Keys of the stage: arrows move a cross, Space uses the tool there.
  key(event) {
    if (this.tool === "look" || !this.image) return false;
    if (event.key in ARROWS) {
      const step = (event.shiftKey ? 0.1 : 0.02) * Math.max(this.columns, this.rows);
      const [x, y] = ARROWS[event.key];
      this.cross = [
        Math.min(this.columns - 0.5, Math.max(0.5, this.cross[0] + x * step)),
        Math.min(this.rows - 0.5, Math.max(0.5, this.cross[1] + y * step)),
      ];
      if (this.drag) this.go(this.cross);
      else this.draw();
      return true;
    }
    if (event.key === " ") {
      if (event.repeat || busy) return true;
      if (this.drag) this.end(this.cross);
      else this.begin(this.cross, event.shiftKey);
      return true;
    }
    return false;
  }

  draw() {
    if (!this.mask) return;
    const cell = Math.max(1, Math.floor(LONGEST / Math.max(this.rows, this.columns)));
    const paper = this.paper;
    this.canvas.width = this.columns * cell;
    this.canvas.height = this.rows * cell;
    if ($("show") && !$("show").checked && this.tool === "look") return;
    const edges = new Path2D();
    paper.fillStyle = `${this.color}5a`;
    const { rows, columns, mask } = this;
    for (let row = 0; row < rows; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const at = row * columns + column;
        if (!mask[at]) continue;
        let end = column + 1;
        while (end < columns && mask[row * columns + end]) end += 1;
        paper.fillRect(column * cell, row * cell, (end - column) * cell, cell);
        for (let x = column; x < end; x += 1) {
          const here = row * columns + x;
          if (row === 0 || !mask[here - columns]) edges.rect(x * cell, row * cell, cell, 0);
          if (row === rows - 1 || !mask[here + columns]) edges.rect(x * cell, (row + 1) * cell, cell, 0);
        }
        edges.rect(column * cell, row * cell, 0, cell);
        edges.rect(end * cell, row * cell, 0, cell);
        column = end;
      }
    }
    const thin = Math.max(this.canvas.width, this.canvas.height) / 400;
    for (const [style, width] of [["#000", 2 * thin], ["#fff", thin]]) {
      paper.strokeStyle = style;
      paper.lineWidth = width;
      paper.stroke(edges);
    }
    if (this.tool === "look") return;
    for (const [x, y, positive] of this.clicks) this.mark(x * cell, y * cell, positive ? "#1a7f37" : "#c4291c", thin);
    this.crosshair(cell, thin);
  }

  mark(x, y, color, thin) {
    const paper = this.paper;
    paper.beginPath();
    paper.arc(x, y, 4 * thin, 0, 2 * Math.PI);
    paper.fillStyle = color;
    paper.fill();
    paper.strokeStyle = "#fff";
    paper.lineWidth = thin;
    paper.stroke();
  }

  crosshair(cell, thin) {
    const paper = this.paper;
    const [x, y] = [this.cross[0] * cell, this.cross[1] * cell];
    const round = this.tool === "brush" || this.tool === "eraser";
    const reach = round ? this.brush * cell : 6 * thin;
    paper.beginPath();
    if (round) paper.arc(x, y, reach, 0, 2 * Math.PI);
    paper.moveTo(x - 6 * thin, y);
    paper.lineTo(x + 6 * thin, y);
    paper.moveTo(x, y - 6 * thin);
    paper.lineTo(x, y + 6 * thin);
    for (const [style, width] of [["#000", 2 * thin], ["#fff", thin]]) {
      paper.strokeStyle = style;
      paper.lineWidth = width;
      paper.stroke();
    }
  }

  rubber(from, to) {
    const cell = this.canvas.width / this.columns;
    const paper = this.paper;
    paper.beginPath();
    if (this.tool === "box") paper.rect(from[0] * cell, from[1] * cell, (to[0] - from[0]) * cell, (to[1] - from[1]) * cell);
    else {
      paper.moveTo(from[0] * cell, from[1] * cell);
      paper.lineTo(to[0] * cell, to[1] * cell);
    }
    const thin = Math.max(this.canvas.width, this.canvas.height) / 400;
    for (const [style, width] of [["#000", 2.5 * thin], ["#fff", thin]]) {
      paper.strokeStyle = style;
      paper.lineWidth = width;
      paper.stroke();
    }
  }
}
