"use strict";
const data = JSON.parse(document.getElementById("galaxies").textContent);
const byId = id => document.getElementById(id);
const field = key => data.fields.findIndex(f => f.key === key);
const value = (key, row) => field(key) < 0 ? null : data.fields[field(key)].values[row];
const number = (x, digits) => x === null ? "–" : x.toFixed(digits).replace("-", "−");
const shown = (f, row) => f.digits === null ? f.values[row] : number(f.values[row], f.digits);
const view = byId("view");
let list = [], place = 0, opener = null;

function make(name, text, attributes = {}) {
  const svg = ["svg", "line", "circle", "text"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) made.setAttribute(k, v);
  if (text !== null) made.textContent = text;
  return made;
}

function errorBar(target, row) {
  const at = key => value(target.prefix + key, row);
  const known = ["observed", "predicted", "lo90", "hi90"].map(at).filter(x => x !== null);
  const lo = Math.min(...known), hi = Math.max(...known), pad = 0.12 * Math.max(hi - lo, 0.05);
  const x = v => (100 * (v - lo + pad) / (hi - lo + 2 * pad)).toFixed(2) + "%";
  const svg = make("svg", null, {class: "error", width: "100%", height: 58, role: "img", "aria-label": target.label + ": observed and predicted"});
  svg.append(make("line", null, {class: "axis", x1: 0, x2: "100%", y1: 26, y2: 26}));
  if (at("lo90") !== null && at("hi90") !== null) svg.append(make("line", null, {class: "bar", x1: x(at("lo90")), x2: x(at("hi90")), y1: 26, y2: 26}));
  svg.append(make("line", null, {class: "at", x1: x(at("observed")), x2: x(at("observed")), y1: 14, y2: 38}));
  svg.append(make("circle", null, {cx: x(at("predicted")), cy: 26, r: 6}));
  const anchor = v => ({"text-anchor": v < (lo + hi) / 2 ? "start" : "end"});
  svg.append(make("text", "observed " + number(at("observed"), 2), {x: x(at("observed")), y: 9, ...anchor(at("observed"))}));
  svg.append(make("text", "predicted " + number(at("predicted"), 2), {x: x(at("predicted")), y: 54, ...anchor(at("predicted"))}));
  return svg;
}

function galaxyView(row) {
  const picture = document.querySelector(`.tile[data-row="${row}"] img`), side = make("div", null), values = make("dl", null);
  for (const t of data.targets) side.append(errorBar(t, row));
  for (const f of data.fields.slice(1)) values.append(make("dt", f.unit ? `${f.label} [${f.unit}]` : f.label), make("dd", shown(f, row)));
  side.append(values);
  const image = picture ? make("img", null, {src: picture.src, alt: picture.alt}) : make("p", "The cutout of this galaxy is not on the page: images/" + value("objID", row) + " in the Survey.", {class: "note"});
  return ["Galaxy " + value("objID", row), image, side];
}

function figureView(image) {
  const caption = image.closest("figure").querySelector("figcaption").textContent.trim();
  return [image.alt, make("img", null, {src: image.src, alt: image.alt}), make("p", caption)];
}

function show(step) {
  place = (place + step + list.length) % list.length;
  const figure = list[place] instanceof Element;
  const [title, ...parts] = figure ? figureView(list[place]) : galaxyView(list[place]);
  view.classList.toggle("wide", figure);
  byId("view-title").textContent = title;
  byId("view-place").textContent = `${place + 1} of ${list.length}`;
  byId("view-body").replaceChildren(...parts);
}

function open(items, at, from) {
  [list, place, opener] = [items, at, from];
  show(0);
  view.showModal();
}

byId("view-close").addEventListener("click", () => view.close());
byId("view-back").addEventListener("click", () => show(-1));
byId("view-next").addEventListener("click", () => show(1));
view.addEventListener("click", e => { if (e.target === view) view.close(); });
view.addEventListener("close", () => opener && opener.isConnected && opener.focus());
view.addEventListener("keydown", e => {
  if (e.key === "ArrowLeft") show(-1);
  else if (e.key === "ArrowRight") show(1);
  else return;
  e.preventDefault();
});
for (const tiles of document.querySelectorAll(".tiles")) {
  const buttons = [...tiles.querySelectorAll(".tile")], rows = buttons.map(b => Number(b.dataset.row));
  buttons.forEach((b, i) => b.addEventListener("click", () => open(rows, i, b)));
}
const zooms = [...document.querySelectorAll(".zoom")], images = zooms.map(b => b.querySelector("img"));
zooms.forEach((b, i) => b.addEventListener("click", () => open(images, i, b)));
