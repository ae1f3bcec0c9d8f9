const PAGE = 25, n = data.fields[0].values.length, state = {key: null, down: false, order: [...Array(n).keys()], page: 0};
const COMPARE = {">": (a, b) => a > b, "<": (a, b) => a < b, ">=": (a, b) => a >= b, "<=": (a, b) => a <= b, "=": (a, b) => a === b};

function compare(f, down) {
  const sign = down ? -1 : 1, numeric = f.digits !== null;
  return (i, j) => {
    const a = f.values[i], b = f.values[j];
    if (a === b) return i - j;
    if (a === null || b === null) return a === null ? 1 : -1;
    if (numeric) return sign * (a - b);
    return sign * (a.length - b.length || (a < b ? -1 : 1));
  };
}

function condition(word) {
  const parts = word.match(/^(\w+)(>=|<=|>|<|=)(.+)$/);
  if (!parts) return row => data.fields.some(f => f.digits === null && f.values[row].toLowerCase().includes(word.toLowerCase()));
  const f = data.fields[field(parts[1])], text = parts[3].replace("−", "-");
  if (!f) throw new Error(`There is no column ${parts[1]}.`);
  if (f.digits === null) return row => f.values[row].toLowerCase() === text.toLowerCase();
  if (!Number.isFinite(Number(text))) throw new Error(`${parts[3]} is not a number.`);
  return row => f.values[row] !== null && COMPARE[parts[2]](f.values[row], Number(text));
}

function choose() {
  let message = "";
  try {
    const conditions = byId("search").value.trim().split(/\s+/).filter(Boolean).map(condition);
    state.order = [...Array(n).keys()].filter(row => conditions.every(c => c(row)));
    message = `${state.order.length.toLocaleString("en")} of ${n.toLocaleString("en")} galaxies`;
  } catch (error) { [state.order, message] = [[], error.message]; }
  byId("count").textContent = message;
  const f = data.fields[field(state.key)];
  if (f) state.order.sort(compare(f, state.down));
  turn(-state.page);
}

function turn(step) {
  const pages = Math.max(1, Math.ceil(state.order.length / PAGE));
  state.page = Math.min(Math.max(state.page + step, 0), pages - 1);
  const rows = state.order.slice(state.page * PAGE, (state.page + 1) * PAGE).map((row, i) => {
    const line = make("tr", null), button = make("button", shown(data.fields[0], row), {type: "button"}), first = make("td", null);
    button.addEventListener("click", () => open(state.order, state.page * PAGE + i, button));
    first.append(button);
    line.append(first, ...data.fields.slice(1).map(f => make("td", shown(f, row))));
    return line;
  });
  byId("rows").replaceChildren(...rows);
  byId("page").textContent = `page ${state.page + 1} of ${pages}`;
  byId("back").disabled = state.page === 0;
  byId("next").disabled = state.page === pages - 1;
}

function sortBy(key, heading) {
  [state.down, state.key] = [state.key === key && !state.down, key];
  for (const th of heading.parentElement.children) th.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", state.down ? "descending" : "ascending");
  choose();
}

const headings = make("tr", null);
for (const f of data.fields) {
  const heading = make("th", null, {scope: "col", "data-key": f.key}), button = make("button", f.label + " ", {type: "button", title: "sort by " + f.key});
  button.append(make("small", f.unit ? `[${f.unit}]` : ""));
  button.addEventListener("click", () => sortBy(f.key, heading));
  heading.append(button);
  headings.append(heading);
}
byId("headings").append(headings);
byId("search").addEventListener("input", choose);
byId("back").addEventListener("click", () => turn(-1));
byId("next").addEventListener("click", () => turn(1));
window.addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(d => { d.open = true; }));
choose();
