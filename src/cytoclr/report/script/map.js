// The map of profiles and cells: points, legend, search, selection, and the card of the one that is pointed at.

const MANY_POINTS = 3000;
/** A list of more than these helps nobody: there is the search. */
const MAX_OPTIONS = 2000;
const MAX_LEGEND = 400;
const MAX_SELECTED_ROWS = 200;
const UNTREATED_CELLS = 16;
const CONCENTRATION = "dose";
const MAP_LEVELS = { treatments: "Treatments", wells: "Wells", cells: "Cells" };
const MAP_SIZES = { treatments: 11, wells: 8, cells: 6 };
const map = {
  level: data.asked,
  method: "t-SNE",
  grouping: "mechanism",
  drag: "pan",
  alone: new Set(),
  styles: new Map(),
  doses: null,
  point: 0,
  rings: [],
  sought: "",
  found: [],
  step: -1,
  selected: new Set(),
  dragging: false,
  adding: false,
  drawn: 0,
  byLevel: {},
};

function startMap() {
  const known = data.treatments.some((point) => point.mechanism);
  map.grouping = known ? "mechanism" : "compound";
  map.doses = makeDoseScale();
  const levels = Object.entries(MAP_LEVELS).filter(([level]) => level !== "cells" || data.cells?.well?.length);
  makeChoice(byId("map-level"), Object.fromEntries(levels), map.level, (level) => {
    map.level = level;
    map.selected.clear();
    openLevel(0);
  });
  makeChoice(byId("map-method"), { "t-SNE": "t-SNE", UMAP: "UMAP", PCA: "PCA" }, map.method, (method) => {
    map.method = method;
    redrawMap();
  });
  const drags = { pan: "Move", zoom: "Zoom", lasso: "Lasso", select: "Box" };
  makeChoice(byId("map-drag"), drags, map.drag, (drag) => {
    map.drag = drag;
    redrawMap();
  });
  startColours();
  startSearch();
  startSelection();
  byId("map-point").addEventListener("change", (event) => showPoint(Number(event.target.value)));
  byId("map-open").addEventListener("click", () => openPoint(map.point));
  coloured.push(redrawMap);
  openLevel(answered.length ? data[data.asked].indexOf(matches[answered[0]][0].asker) : 0);
}

function startColours() {
  const colour = byId("map-colour");
  const options = Object.entries(GROUPINGS).map(([value, { label }]) => make("option", { value }, label));
  if (map.doses) options.splice(2, 0, make("option", { value: CONCENTRATION }, "Concentration"));
  colour.append(...options);
  colour.value = map.grouping;
  colour.addEventListener("change", () => {
    map.grouping = colour.value;
    map.alone.clear();
    styleMap();
    redrawMap();
  });
}

// ---- what there is of a level ----

/** The points of the level that is shown, and what is worked out of them once: order of names, text to search. */
function levelOf() {
  map.byLevel[map.level] ??= { points: map.level === "cells" ? listCells() : data[map.level] };
  return map.byLevel[map.level];
}

const pointsOf = () => levelOf().points;

/** Cells come as columns; each knows what its well knows. */
function listCells() {
  const { well, tile, id } = data.cells;
  return well.map((number, i) => {
    const home = data.wells[number];
    return { ...home, home, id: id[i], cells: tile[i] < 0 ? [] : [tile[i]] };
  });
}

/** Where each point stands in the order of names, then plates, then wells. */
function ranksOf() {
  const level = levelOf();
  if (!level.ranks) {
    const keys = ["name", "plate", "well"].map((key) => {
      const values = level.points.map((point) => point[key] ?? "");
      const places = new Map([...new Set(values)].sort(compareNames).map((value, place) => [value, place]));
      return values.map((value) => places.get(value));
    });
    level.ranks = keys[0].map((place, i) => (place * 1e5 + keys[1][i]) * 1e5 + keys[2][i]);
  }
  return level.ranks;
}

const sortPoints = (numbers) => {
  const ranks = ranksOf();
  return [...numbers].sort((one, other) => ranks[one] - ranks[other] || one - other);
};

const layoutsOf = () => (map.level === "cells" ? data.cells.layouts : data.layouts[map.level]);
const findLayout = () => layoutsOf().find((layout) => layout.method === map.method);
const placeOf = (point) => (point.id ? `${point.plate} ${point.well} · ${point.id}` : `${point.plate} ${point.well}`);
const longName = (point) => (point.well ? `${point.name} · ${placeOf(point)}` : point.name);

/** Show another level, and of it this point. */
function openLevel(number) {
  offerMethods();
  listPoints();
  styleMap();
  drawMap();
  showPoint(number);
  drawSelection();
}

/** Layouts that this level lacks are not offered: t-SNE of very many cells. */
function offerMethods() {
  const methods = layoutsOf().map((layout) => layout.method);
  if (methods.length && !methods.includes(map.method)) map.method = methods[0];
  for (const button of byId("map-method").querySelectorAll("button")) {
    button.hidden = methods.length > 0 && !methods.includes(button.value);
    button.setAttribute("aria-pressed", String(button.value === map.method));
  }
}

function listPoints() {
  const points = pointsOf();
  const few = points.length <= MAX_OPTIONS;
  byId("map-pick").hidden = !few;
  const numbers = few ? sortPoints(points.keys()) : [];
  byId("map-point").replaceChildren(...numbers.map((value) => make("option", { value }, longName(points[value]))));
}

// ---- the figure ----

/** What is drawn anew whenever colours, layout or what is lit change; the point in the card stays. */
function redrawMap() {
  drawMap();
  showPoint(map.point);
}

function drawMap() {
  const layout = findLayout();
  byId("map-none").hidden = Boolean(layout);
  byId("map-plot").hidden = !layout;
  findSought();
  if (!layout) return;
  const plot = byId("map-plot");
  window.Plotly.react(plot, listTraces(layout), mapLook(layout), MAP_OPTIONS);
  if (plot.dataset.listening) return;
  plot.dataset.listening = "yes";
  listenToMap(plot);
}

function listenToMap(plot) {
  const numberOf = (event) => event.points.find((point) => point.customdata !== undefined)?.customdata;
  plot.on("plotly_hover", (event) => numberOf(event) !== undefined && showPoint(numberOf(event)));
  plot.on("plotly_click", (event) => {
    const number = numberOf(event);
    if (number === undefined) return;
    showPoint(number);
    openPoint(number);
  });
  const press = (event) => Object.assign(map, { dragging: true, adding: event.shiftKey });
  plot.addEventListener("pointerdown", press, true);
  plot.on("plotly_selected", (event) => {
    // it also comes, and empty, when the outline goes: only what the reader drew counts
    if (!event || !map.dragging) return;
    map.dragging = false;
    const enclosed = event.points.map((point) => point.customdata).filter((number) => number !== undefined && isLit(number));
    // Plotly is still at work on its outline
    setTimeout(() => selectPoints(map.adding ? [...map.selected, ...enclosed] : enclosed));
  });
  // not Plotly's event of deselection: that also comes when its outline goes
  plot.on("plotly_doubleclick", () => ["lasso", "select"].includes(map.drag) && setTimeout(() => selectPoints([])));
}

/** Colour and shape of a point; no shapes by concentration. */
function mapStyleOf(point) {
  if (map.grouping !== CONCENTRATION) return map.styles.get(GROUPINGS[map.grouping].of(point));
  const told = point.dose > 0 && !point.control;
  return { colour: told ? map.doses.colourOf(point.dose) : NEUTRAL_COLOUR, shape: "circle" };
}

const isOnMap = (point) => map.alone.size === 0 || map.alone.has(GROUPINGS[map.grouping].of(point));

/** Neither hidden by the legend, nor faded because something else is sought. */
const isLit = (number) => isOnMap(pointsOf()[number]) && (!map.sought || levelOf().isFound[number]);

const MAP_LIGHTS = ["hidden", "faded", "plain", "chosen"];
const MAP_OPACITIES = { hidden: 0.07, faded: 0.16, plain: 0.95, chosen: 1 };

function lightOf(point, number) {
  if (!isOnMap(point)) return "hidden";
  if (map.selected.has(number)) return map.sought && !levelOf().isFound[number] ? "faded" : "chosen";
  const others = map.sought ? !levelOf().isFound[number] : map.selected.size > 0;
  return others ? "faded" : "plain";
}

/** A trace for all points that look the same, the faded first, and rings around what is found. */
function listTraces(layout) {
  const points = pointsOf();
  const many = points.length > MANY_POINTS;
  const every = many && !drawsMany() ? Math.ceil(points.length / MANY_POINTS) : 1;
  tellThinned(points.length, every);
  const alike = new Map();
  points.forEach((point, number) => {
    if (number % every) return;
    const { colour, shape } = mapStyleOf(point);
    const light = lightOf(point, number);
    const symbol = many ? "circle" : shape;
    const key = `${colour} ${symbol} ${light}`;
    if (!alike.has(key)) alike.set(key, { colour, symbol, light, numbers: [] });
    alike.get(key).numbers.push(number);
  });
  const type = many && every === 1 ? "scattergl" : "scatter";
  const size = points.length > 20000 ? 4 : many ? 5 : MAP_SIZES[map.level];
  // both ends of a scale of colours need an edge: one is lost on paper, the other in the dark
  const edge = map.grouping === CONCENTRATION ? { width: 0.7, color: ink("quiet") } : { width: many ? 0 : 1, color: ink("paper") };
  const lines = { chosen: { width: many ? 1 : 2, color: ink("ink") }, plain: edge };
  const traces = [...alike.values()]
    .sort((one, other) => MAP_LIGHTS.indexOf(one.light) - MAP_LIGHTS.indexOf(other.light))
    .map(({ colour, symbol, light, numbers }) => ({
      type,
      mode: "markers",
      x: numbers.map((i) => layout.x[i]),
      y: numbers.map((i) => layout.y[i]),
      customdata: numbers,
      hoverinfo: light === "hidden" ? "skip" : "none",
      opacity: many && light === "plain" ? 0.75 : MAP_OPACITIES[light],
      marker: { color: colour, symbol, size, line: lines[light] ?? { width: 0 } },
    }));
  const rings = map.sought ? map.found.filter((number) => number % every === 0 && isOnMap(points[number])) : [];
  if (rings.length) {
    traces.push({
      type,
      mode: "markers",
      x: rings.map((i) => layout.x[i]),
      y: rings.map((i) => layout.y[i]),
      hoverinfo: "skip",
      marker: { symbol: "circle-open", size: size + 7, color: ink("ink"), line: { width: 1.5, color: ink("ink") } },
    });
  }
  return traces;
}

/** Whether the browser draws very many points at all. */
function drawsMany() {
  map.webgl ??= Boolean(make("canvas").getContext("webgl"));
  return map.webgl;
}

function tellThinned(total, every) {
  byId("map-thinned").hidden = every === 1;
  byId("map-thinned").textContent = `This browser has no WebGL: one of ${every} of the ${total.toLocaleString("en")} points is drawn.`;
}

const MAP_OPTIONS = { ...PLOT_OPTIONS, modeBarButtons: [["toImage"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]] };

function mapLook(layout) {
  const axis = { showticklabels: false, showgrid: false, zeroline: false, ticks: "" };
  // a finger on the map scrolls the page, unless it is to do something else
  const scrolls = map.drag === "pan" && matchMedia("(pointer: coarse)").matches;
  return {
    ...plotLook(),
    margin: { l: layout.axes[1] ? 34 : 8, r: 8, t: 8, b: layout.axes[0] ? 34 : 8 },
    dragmode: scrolls ? false : map.drag,
    // told, not found by Plotly: it would look through all points again for every ring
    xaxis: { ...axis, title: { text: layout.axes[0] }, range: mapSpanOf(layout.x) },
    yaxis: { ...axis, title: { text: layout.axes[1] }, range: mapSpanOf(layout.y), scaleanchor: "x" },
    shapes: map.rings,
    newselection: { line: { color: ink("ink"), width: 1.5, dash: "dot" } },
    uirevision: `${map.level} ${map.method}`,
    // what is selected is drawn by us; Plotly's outline goes
    selectionrevision: ++map.drawn,
    selections: [],
  };
}

function mapSpanOf(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const room = 0.05 * (high - low) || 1;
  return [low - room, high + room];
}

// ---- the legend ----

function styleMap() {
  map.styles = map.grouping === CONCENTRATION ? new Map() : styleGroups(map.grouping);
  drawLegend();
}

/** The names of the groups; the first press shows a group alone, further presses add to it or take away. */
function drawLegend() {
  if (map.grouping === CONCENTRATION) {
    byId("map-legend").replaceChildren(...makeDoseLegend(map.doses));
    return;
  }
  const present = new Set(pointsOf().map(GROUPINGS[map.grouping].of));
  const groups = [...map.styles].filter(([group]) => present.has(group));
  const buttons = groups.slice(0, MAX_LEGEND).map(([group, style]) => {
    const press = () => {
      if (!map.alone.delete(group)) map.alone.add(group);
      pressLegend(buttons, groups);
      redrawMap();
    };
    return make("button", { type: "button", onclick: press }, makeSwatch(style), named(group));
  });
  pressLegend(buttons, groups);
  const more = groups.length - buttons.length;
  const note = more > 0 ? [make("span", { class: "quiet" }, `and ${more.toLocaleString("en")} more: find them by name`)] : [];
  byId("map-legend").replaceChildren(...buttons, ...note);
}

/** The buttons stay, and so does the focus on one of them. */
function pressLegend(buttons, groups) {
  buttons.forEach((button, i) => {
    button.setAttribute("aria-pressed", String(map.alone.size === 0 || map.alone.has(groups[i][0])));
  });
}

// ---- search ----

/** For search, letters of one kind are alike: large or small, and both signs of micro. */
const foldCase = (text) => text.normalize("NFKC").toLowerCase();

function textsOf() {
  const level = levelOf();
  level.texts ??= level.points.map((point) => {
    const { name, compound, plate, well, id } = point;
    // no field ends where another begins, for nobody types a new line
    return foldCase([name, compound, GROUPINGS.mechanism.of(point), plate, well ?? "", id ?? ""].join("\n"));
  });
  return level.texts;
}

function startSearch() {
  const search = byId("map-search");
  let waiting = 0;
  const seek = () => {
    clearTimeout(waiting);
    waiting = 0;
    map.sought = foldCase(search.value.trim());
    map.step = -1;
    redrawMap();
  };
  search.addEventListener("input", () => {
    clearTimeout(waiting);
    // a letter at a time is drawn at once, unless there are very many points
    waiting = setTimeout(seek, pointsOf().length > MANY_POINTS ? 250 : 60);
  });
  search.addEventListener("keydown", (event) => {
    if (waiting && event.key !== "Escape" && ["Enter", "ArrowDown", "ArrowUp"].includes(event.key)) seek();
    if (event.key === "Escape") {
      search.value = "";
      if (waiting || map.sought) seek();
    } else if (event.key === "Enter") {
      if (map.step < 0) stepFound(1);
      if (map.sought && map.found.length) openPoint(map.point);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      stepFound(event.key === "ArrowDown" ? 1 : -1);
    }
  });
  byId("map-take").addEventListener("click", () => selectPoints(map.found));
}

/** Mark what has the sought text in one of its names, and is not hidden by the legend. */
function findSought() {
  const level = levelOf();
  const take = byId("map-take");
  map.found = [];
  level.isFound = null;
  if (map.sought) {
    const texts = textsOf();
    level.isFound = level.points.map((point, i) => isOnMap(point) && texts[i].includes(map.sought));
    level.isFound.forEach((is, i) => is && map.found.push(i));
  }
  take.disabled = map.found.length === 0;
  byId("map-search").setAttribute("aria-invalid", String(Boolean(map.sought) && !map.found.length));
  const total = level.points.length.toLocaleString("en");
  const count = map.found.length ? map.found.length.toLocaleString("en") : "none";
  byId("map-found").textContent = map.sought ? `${count} of ${total} found` : "";
}

/** Show the next of what is found, in the order of names. */
function stepFound(by) {
  if (!map.found.length) return;
  const total = map.found.length;
  map.step = map.step < 0 ? (by > 0 ? 0 : total - 1) : (map.step + by + total) % total;
  map.found = sortPoints(map.found);
  const number = map.found[map.step];
  showPoint(number);
  byId("map-found").replaceChildren(`${map.step + 1} of ${total.toLocaleString("en")} found: `, named(longName(pointsOf()[number])));
}

// ---- selection ----

const SELECTED_COLUMNS = {
  name: { label: "Name", of: (point) => point.name },
  compound: { label: "Compound", of: (point) => point.compound },
  dose: { label: "Concentration, µM", of: (point) => (point.dose > 0 ? spellDose(point.dose) : ""), number: true },
  mechanism: { label: "Mechanism", of: (point) => (point.control ? UNTREATED : (point.mechanism ?? "")) },
  plate: { label: "Plate", of: (point) => point.plate },
  well: { label: "Well", of: (point) => point.well, levels: ["wells", "cells"] },
  cell: { label: "Cell", of: (point) => point.id, levels: ["cells"] },
  batch: { label: "Batch", of: (point) => point.batch },
};
const selectedColumns = () => Object.values(SELECTED_COLUMNS).filter(({ levels }) => !levels || levels.includes(map.level));

function startSelection() {
  byId("map-csv").addEventListener("click", downloadSelected);
  byId("map-copy").addEventListener("click", copySelected);
  byId("map-clear").addEventListener("click", () => {
    selectPoints([]);
    byId("map-search").focus();
  });
}

function selectPoints(numbers) {
  map.selected = new Set(numbers);
  redrawMap();
  drawSelection();
}

function drawSelection() {
  byId("map-selection").hidden = map.selected.size === 0;
  if (!map.selected.size) {
    byId("map-rows").replaceChildren();
    return;
  }
  const total = map.selected.size.toLocaleString("en");
  const more = map.selected.size > MAX_SELECTED_ROWS ? `; the first ${MAX_SELECTED_ROWS} are listed, the CSV has all` : "";
  byId("map-selected").textContent = `${total} ${map.selected.size === 1 ? map.level.slice(0, -1) : map.level}${more}`;
  const columns = selectedColumns();
  const heads = columns.map(({ label, number }) => make("th", { scope: "col", class: number && "number" }, label));
  const points = pointsOf();
  const rows = sortPoints(map.selected).slice(0, MAX_SELECTED_ROWS).map((at) => {
    const cells = columns.map(({ of, number }, i) => {
      const text = named(of(points[at]) ?? "");
      const press = () => showPoint(at);
      return make("td", { class: number && "number" }, i ? text : make("button", { type: "button", class: "row", onclick: press }, text));
    });
    return make("tr", {}, ...cells);
  });
  byId("map-rows").replaceChildren(make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ...rows));
}

const PLAIN_NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

/** A field of CSV. Spreadsheets take text for a formula that begins as one; an apostrophe tells them that it is text. */
function spellField(value) {
  const text = String(value ?? "");
  const safe = /^[=+\-@\t\r]/.test(text) && !PLAIN_NUMBER.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function downloadSelected() {
  const columns = selectedColumns();
  const points = pointsOf();
  const lines = sortPoints(map.selected).map((number) => columns.map(({ of }) => spellField(of(points[number]))).join(","));
  const head = columns.map(({ label }) => spellField(label)).join(",");
  // the mark of UTF-8 first: spreadsheets would else read µ as two letters
  const blob = new Blob(["\ufeff", [head, ...lines, ""].join("\r\n")], { type: "text/csv;charset=utf-8" });
  const url = URL.createObjectURL(blob);
  make("a", { href: url, download: `cytoclr-${map.level}.csv` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function copySelected() {
  const points = pointsOf();
  const names = [...new Set(sortPoints(map.selected).map((number) => points[number].name))];
  const copied = await copyText(names.join("\n"));
  const count = `${names.length.toLocaleString("en")} ${names.length === 1 ? "name" : "names"}`;
  byId("map-selected").textContent = copied ? `${count} copied` : "The browser did not let the names be copied; the CSV has them.";
}

async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // the old way, where a page from a disk may not use the new one
    const area = make("textarea", { class: "unseen", "aria-hidden": "true" });
    area.value = text;
    byId("map-selection").append(area);
    area.select();
    const copied = document.execCommand("copy");
    area.remove();
    byId("map-copy").focus();
    return copied;
  }
}

// ---- one point: the card, and the window of its cells ----

/** Show a point's cells and its nearest neighbour's, and ring both on the map. */
function showPoint(number) {
  const point = pointsOf()[number];
  if (!point) return;
  map.point = number;
  const match = answered.length ? matchOf[answered[0]].get(askerOf(point)) : undefined;
  byId("map-point").value = String(number);
  const details = [...describePoint(point)];
  if (match) {
    const nearest = `Nearest of ${SCORES[answered[0]]}: `;
    details.push(make("p", { class: "between" }, nearest, ...describeVerdict(match)), ...describePoint(match.neighbour));
  }
  byId("map-details").replaceChildren(...details);
  const layout = findLayout();
  if (!layout) return;
  const ringed = map.level === "treatments" && match ? [number, data.treatments.indexOf(match.neighbour)] : [number];
  map.rings = ringShapes(ringed.map((i) => [layout.x[i], layout.y[i]]));
  window.Plotly.relayout("map-plot", { shapes: map.rings });
}

/** Rings of one size on the screen, joined by a line. Shapes, for they are moved without drawing the points again. */
function ringShapes(places) {
  const radius = pointsOf().length > MANY_POINTS ? 8 : MAP_SIZES[map.level] / 2 + 5;
  const pixels = { xsizemode: "pixel", ysizemode: "pixel", x0: -radius, x1: radius, y0: -radius, y1: radius };
  const rings = places.map(([x, y]) => ({
    ...pixels,
    type: "circle",
    xanchor: x,
    yanchor: y,
    line: { color: ink("ink"), width: 2 },
  }));
  if (places.length < 2) return rings;
  const [[x0, y0], [x1, y1]] = places;
  return [{ type: "line", x0, y0, x1, y1, line: { color: ink("ink"), width: 1.2, dash: "dot" } }, ...rings];
}

function aboutPoint(point) {
  const mechanism = GROUPINGS.mechanism.of(point);
  const place = point.well ? [named(point.plate), " · well ", named(point.well)] : [named(point.batch)];
  const about = mechanism === UNKNOWN ? place : [named(mechanism), " · ", ...place];
  return point.id ? [...about, " · cell ", named(point.id)] : about;
}

function describePoint(point) {
  const heads = [make("h4", {}, named(point.name)), make("p", { class: "about" }, ...aboutPoint(point))];
  const about = (text) => make("p", { class: "about" }, text);
  if (!point.home) return [...heads, point.cells.length ? makeCells(point.cells, 4, point.name) : about("No cells of it are in this file.")];
  const others = othersOf(point);
  const own = point.cells.length ? [makeCells(point.cells, 1, point.name)] : [about("No picture of this cell is in this file.")];
  own.forEach((canvas) => canvas.classList.add("one"));
  return [...heads, ...own, ...(others.length ? [about("Others of its well:"), makeCells(others, 4, point.name)] : [])];
}

const othersOf = (cell) => cell.home.cells.filter((tile) => tile !== cell.cells[0]);

/** Open the window of a point's cells, those of untreated wells beside them; `of`: whose cells a server has more of. */
function openPoint(number) {
  const point = pointsOf()[number];
  const untreated = { name: "Untreated", note: "drawn by chance", tiles: untreatedNear(point) };
  let groups;
  if (point.home) {
    groups = [
      { name: "This cell", note: `${point.id} (twice as large)`, tiles: point.cells, larger: 2 },
      { name: "Others of its well", note: "drawn by chance", tiles: othersOf(point), of: { level: "wells", number: data.cells.well[number] } },
    ];
  } else if (point.well) {
    groups = [{ name: "Cells of the well", note: "drawn by chance", tiles: point.cells, of: { level: "wells", number } }];
  } else {
    const ranked = [
      { name: "Typical", note: "most as all its cells together", tiles: point.typical ?? [] },
      { name: "Untypical", note: "least so", tiles: point.untypical ?? [] },
    ];
    const chance = { name: "By chance", note: "drawn of its wells in turn", tiles: point.cells, of: { level: "treatments", number } };
    groups = [...ranked.filter(({ tiles }) => tiles.length), chance];
  }
  if (!point.control && untreated.tiles.length) groups.push(untreated);
  openGallery(point.name, aboutPoint(point), groups);
}

/** Cells of untreated wells, of each in turn; those of the point's own plate first, then of its batch. */
function untreatedNear(point) {
  const nearness = (well) => (well.plate === point.plate ? 0 : well.batch === point.batch ? 1 : 2);
  const wells = data.wells.filter((well) => well.control && well.cells.length);
  wells.sort((one, other) => nearness(one) - nearness(other));
  const nearest = wells.filter((well) => nearness(well) === nearness(wells[0]));
  const tiles = [];
  for (let turn = 0; tiles.length < UNTREATED_CELLS && nearest.some((well) => well.cells.length > turn); turn += 1) {
    for (const well of nearest) if (well.cells.length > turn) tiles.push(well.cells[turn]);
  }
  return tiles.slice(0, UNTREATED_CELLS);
}
