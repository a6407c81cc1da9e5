// The comparison page. The table sorts and filters; the other parts show the rows of the table.
"use strict";

const { fields, columns, rows } = content; // fields in which the rows differ
const state = { by: null, falling: true, filters: new Map() };

// Returns a row's color; neighboring rows have very different colors.
const colorOf = (row) => `hsl(${(rows.indexOf(row) * 137.5 + 210) % 360} 65% 50%)`;
const shownValue = (value) => (value === "" ? "''" : value);
// The fields that name a row, without those that are functions of others.
const naming = [];
for (const field of fields) {
  const numNames = (some) => new Set(rows.map((row) =>
    JSON.stringify(some.map(({ name }) => row.setting[name])))).size;
  if (numNames([...naming, field]) > numNames(naming)) naming.push(field);
}
const nameOf = (row) => naming.map(({ name, label }) => `${label} = ${shownValue(row.setting[name])}`)
  .join(", ") || "all runs";

function number(value, digits) {
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function formatted(quantity, digits) {
  if (!quantity) return "";
  if (quantity.mean === null) return "not finite";
  const half = quantity.half_width; // of the 95 % interval over the seeds
  return number(quantity.mean, digits) + (half === null ? "" : ` ± ${number(half, digits)}`);
}

// Returns the rows that pass the filters, sorted; rows without a value come last.
function shownRows() {
  const passing = rows.filter((row) =>
    [...state.filters].every(([field, value]) => row.setting[field] === value));
  if (!state.by) return passing;
  const { valueIn } = state.by, has = passing.filter((row) => valueIn(row) !== null);
  has.sort((a, b) => (state.falling ? -1 : 1) * (valueIn(a) - valueIn(b)));
  return [...has, ...passing.filter((row) => !has.includes(row))];
}

const swatch = (row) => element("span", { class: "swatch", style: `background: ${colorOf(row)}` });

// ---- the table

// A column's name, its value in a row (a number to sort by, or null), and its first sort order.
const fieldHeads = fields.map(({ name, label, values }) => ({
  label, title: name, valueIn: (row) => values.indexOf(row.setting[name]), falls: false,
}));
const quantityHeads = columns.map(({ label }, at) => ({
  label, title: label, falls: true,
  valueIn: (row) => row.quantities[at] && row.quantities[at].mean,
}));
const heads = [...fieldHeads, ...quantityHeads];

function sortBy(head) {
  state.falling = state.by === head ? !state.falling : head.falls;
  state.by = head;
  show();
}

function cellOf(head) {
  const button = element("button", { type: "button", title: head.title }, head.label);
  button.addEventListener("click", () => sortBy(head));
  head.cell = element("th", { scope: "col" }, button);
  return head.cell;
}

function seedOf({ seed, folder, page, is_finished }) {
  const text = `${seed}${is_finished ? "" : " (not finished)"}`;
  return page ? element("a", { href: page, title: folder }, text)
    : element("span", { title: folder }, text);
}

function bodyRow(row) {
  const seeds = element("td", { class: "seeds" });
  row.runs.forEach((run, i) => seeds.append(i ? ", " : "", seedOf(run)));
  return element("tr", {},
    element("td", {}, swatch(row)),
    ...fields.map(({ name }) => element("td", {}, shownValue(row.setting[name]))),
    seeds,
    ...columns.map(({ digits }, at) =>
      element("td", { class: "number" }, formatted(row.quantities[at], digits))));
}

// ---- the parts below the table

function show() {
  const shown = shownRows();
  for (const head of heads) {
    head.cell.setAttribute("aria-sort",
      state.by !== head ? "none" : state.falling ? "descending" : "ascending");
  }
  find("table").tBodies[0].replaceChildren(...shown.map(bodyRow));
  find("count").textContent = shown.length === rows.length ? `${rows.length} rows`
    : `${shown.length} of ${rows.length} rows`;
  showCurves(shown);
  showPictures(shown);
  showSettings(shown);
}

function showCurves(shown) {
  const isTrain = find("split").value === "train";
  const words = isTrain ? "training" : "held-out";
  const bound = (curve) => isTrain ? curve.train_bound : curve.valid_bound ?? curve.test_bound;
  const lines = shown.flatMap((row) => row.curves.map((curve) => ({
    label: nameOf(row), color: colorOf(row), x: curve.examples, y: bound(curve),
  })));
  const first = shown.map((row) => ({ label: nameOf(row), color: colorOf(row) }));
  find("curves").replaceChildren(
    chart(lines, "training examples", `${words} bound (nats per datapoint)`), legend(first));
}

function showPictures(shown) {
  const name = find("picture").value;
  const pictured = shown.filter((row) => name in row.pictures);
  find("pictured").textContent = `The pictures are of the first seed of a row. ` +
    `${pictured.length} of ${shown.length} rows have one.`;
  find("shown").replaceChildren(...pictured.map((row) => {
    const alt = `${name}: ${nameOf(row)}`;
    return element("figure", {}, element("img", { src: row.pictures[name], alt }),
      element("figcaption", {}, swatch(row), ` ${nameOf(row)}`));
  }));
}

function showSettings(shown) {
  const places = shown.map((row) => rows.indexOf(row));
  const wanted = content.settings.filter(({ differs }) => differs || !find("differing").checked);
  const head = element("tr", {}, element("td"), ...shown.map((row) => element("td", {}, swatch(row))));
  find("settings").tBodies[0].replaceChildren(
    ...(wanted.length ? [head] : [element("tr", {}, element("td", {}, "No setting differs."))]),
    ...wanted.map(({ name, values, differs }) =>
      element("tr", differs ? { class: "changed" } : {}, element("th", { scope: "row" }, name),
        ...places.map((at) => element("td", {}, shownValue(values[at]))))));
}

// ---- the parts that do not depend on the table

find("title").textContent = content.title;
find("table").tHead.append(element("tr", {}, element("td"), ...fieldHeads.map(cellOf),
  element("th", { scope: "col" }, "seeds"), ...quantityHeads.map(cellOf)));
for (const { name, label, values } of fields) {
  const select = element("select", {}, element("option", {}, "all"),
    ...values.map((value) => element("option", {}, shownValue(value))));
  select.addEventListener("change", () => {
    if (select.selectedIndex) state.filters.set(name, values[select.selectedIndex - 1]);
    else state.filters.delete(name);
    show();
  });
  find("filters").append(element("label", { title: name }, `${label} `, select));
}
for (const name of content.pictures) find("picture").append(element("option", { value: name }, name));
find("pictures").hidden = !content.pictures.length;
for (const [folder, why] of content.left_out) {
  find("left-out").hidden = false;
  find("left-out").querySelector("ul").append(element("li", {}, `${folder}: ${why}`));
}
for (const id of ["split", "picture", "differing"]) find(id).addEventListener("change", show);
show();
