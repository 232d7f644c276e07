// Draws what the page's data hold: the training's course, the map, the cells, and who matched whom.
// Names come from tables that anyone may have filled in: they only ever become text nodes, never HTML, and
// never labels of Plotly, which reads some HTML.

const data = JSON.parse(document.getElementById("report-data").textContent);
const SCORES = { nscb: "another compound, another batch (NSCB)", nsc: "another compound (NSC)" };

// ---- small things ----

const byId = (id) => document.getElementById(id);

/** Make an element with attributes, and children that are elements or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Text that decides its own direction, so that a right-to-left name does not turn its neighbours around. */
const named = (text, attributes = {}) => make("bdi", attributes, text);

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const compareNames = new Intl.Collator("en", { numeric: true }).compare;

/** A row of buttons of which one is pressed. */
function makeChoice(place, options, chosen, choose) {
  const buttons = Object.entries(options).map(([value, label]) => {
    const press = () => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.value === value)));
      choose(value);
    };
    return make("button", { type: "button", value, "aria-pressed": String(value === chosen), onclick: press }, label);
  });
  place.append(...buttons);
}

// ---- cells ----

const TILES_ACROSS = 32;
const TILES_A_SHEET = TILES_ACROSS * 32;
const sheets = data.tiles.sheets.map(async (text) => {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/webp" }));
});

/** A canvas of these cells, so many in a row. */
function makeCells(tiles, across, label) {
  const px = data.tiles.px;
  const canvas = make("canvas", { class: "cells", role: "img", "aria-label": `Cells of ${label}` });
  canvas.width = px * across;
  canvas.height = px * Math.max(1, Math.ceil(tiles.length / across));
  const context = canvas.getContext("2d");
  tiles.forEach(async (tile, place) => {
    const sheet = await sheets[Math.floor(tile / TILES_A_SHEET)];
    const number = tile % TILES_A_SHEET;
    const [from, to] = [number, place].map((n, i) => {
      const columns = i ? across : TILES_ACROSS;
      return [px * (n % columns), px * Math.floor(n / columns)];
    });
    context.drawImage(sheet, ...from, px, px, ...to, px, px);
  });
  return canvas;
}

// ---- matches ----

const matches = Object.fromEntries(
  Object.entries(data.matches).map(([score, lines]) => [
    score,
    lines.map(([asker, neighbour, similarity, right, predicted]) => ({
      asker: data[data.asked][asker],
      neighbour: data.treatments[neighbour],
      similarity,
      right,
      predicted,
    })),
  ]),
);
const answered = Object.keys(SCORES).filter((score) => matches[score]?.length);
const matchOf = Object.fromEntries(
  answered.map((score) => [score, new Map(matches[score].map((match) => [match.asker, match]))]),
);

/** Who asks for a point of the map: wells share their treatment's match, unless each asks for itself. */
const askerOf = (point) => (point.well && data.asked === "treatments" ? data.treatments[point.treatment] : point);
const verdictOf = (right) => make("span", { class: right ? "right" : "wrong" }, right ? "✓ right" : "✗ wrong");

// ---- groups of points: colour and shape ----

// Okabe and Ito 2008, its yellow darkened for paper; a ninth group takes the first colour and the next shape
const COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8d7bd8", "#a8a000"];
const SHAPES = ["circle", "diamond", "triangle-up", "square", "triangle-down", "pentagon", "star", "cross"];
const PATHS = {
  circle: "M6 1a5 5 0 1 0 .01 0z",
  diamond: "M6 0l6 6-6 6-6-6z",
  "triangle-up": "M6 1l6 10H0z",
  square: "M1 1h10v10H1z",
  "triangle-down": "M6 11l6-10H0z",
  pentagon: "M6 0l6 4.5L9.7 12H2.3L0 4.5z",
  star: "M6 0l1.6 4.2 4.4.2-3.5 2.8L9.7 12 6 9.3 2.3 12l1.2-4.8L0 4.4l4.4-.2z",
  cross: "M4 0h4v4h4v4H8v4H4V8H0V4h4z",
};
const UNTREATED = "untreated";
const UNKNOWN = "not known";
const ASKED_BY_WELL = "asked well by well";

const GROUPINGS = {
  mechanism: { label: "Mechanism", of: (point) => (point.control ? UNTREATED : (point.mechanism ?? UNKNOWN)) },
  compound: { label: "Compound", of: (point) => (point.control ? UNTREATED : point.compound) },
  batch: { label: "Batch", of: (point) => point.batch },
  plate: { label: "Plate", of: (point) => point.plate },
};
for (const score of answered) {
  GROUPINGS[score] = {
    label: `Right or wrong, ${score.toUpperCase()}`,
    of: (point) => {
      if (data.asked === "wells" && !point.well) return ASKED_BY_WELL;
      const match = matchOf[score].get(askerOf(point));
      return match ? (match.right ? "right" : "wrong") : "not scored";
    },
  };
}
const FIXED = {
  right: { colour: COLOURS[0], shape: "circle" },
  wrong: { colour: COLOURS[5], shape: "diamond" },
};
const NEUTRAL = [UNTREATED, "several", UNKNOWN, ASKED_BY_WELL, "not scored"];

/** Colour and shape of every group, the same for wells and treatments. */
function styleGroups(grouping) {
  const found = new Set([...data.treatments, ...data.wells].map(GROUPINGS[grouping].of));
  const neutral = NEUTRAL.filter((name) => found.has(name));
  const plain = [...found].filter((name) => !NEUTRAL.includes(name)).sort(compareNames);
  const styles = new Map();
  plain.forEach((name, number) => {
    const style = {
      colour: COLOURS[number % COLOURS.length],
      shape: SHAPES[Math.floor(number / COLOURS.length) % SHAPES.length],
    };
    styles.set(name, grouping in matches ? FIXED[name] : style);
  });
  neutral.forEach((name, number) => styles.set(name, { colour: "#8b939b", shape: ["circle", "square"][number % 2] }));
  return styles;
}

function makeSwatch({ colour, shape }) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  for (const [name, value] of Object.entries({ width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": true })) {
    svg.setAttribute(name, value);
  }
  path.setAttribute("d", PATHS[shape]);
  path.setAttribute("fill", colour);
  svg.append(path);
  return svg;
}

// ---- the map ----

const MANY_POINTS = 3000;
const map = { level: data.asked, method: "t-SNE", grouping: "mechanism", alone: new Set(), styles: new Map() };

function startMap() {
  const known = data.treatments.some((point) => point.mechanism);
  map.grouping = known ? "mechanism" : "compound";
  makeChoice(byId("map-level"), { treatments: "Treatments", wells: "Wells" }, map.level, (level) => {
    map.level = level;
    listPoints();
    drawMap();
    showPoint(0);
  });
  makeChoice(byId("map-method"), { "t-SNE": "t-SNE", UMAP: "UMAP", PCA: "PCA" }, map.method, (method) => {
    map.method = method;
    drawMap();
    showPoint(Number(byId("map-point").value));
  });
  const colour = byId("map-colour");
  for (const [value, { label }] of Object.entries(GROUPINGS)) colour.append(make("option", { value }, label));
  colour.value = map.grouping;
  colour.addEventListener("change", () => {
    map.grouping = colour.value;
    map.alone.clear();
    drawMap();
    showPoint(Number(byId("map-point").value));
  });
  byId("map-point").addEventListener("change", (event) => showPoint(Number(event.target.value)));
  listPoints();
  drawMap();
  showPoint(answered.length ? data[data.asked].indexOf(matches[answered[0]][0].asker) : 0);
}

function listPoints() {
  const options = data[map.level].map((point, number) => [longName(point), number]);
  options.sort((one, other) => compareNames(one[0], other[0]));
  byId("map-point").replaceChildren(...options.map(([name, value]) => make("option", { value }, name)));
}

const longName = (point) => (point.well ? `${point.name} · ${point.plate} ${point.well}` : point.name);
const findLayout = () => data.layouts[map.level].find((layout) => layout.method === map.method);

function drawMap() {
  const layout = findLayout();
  byId("map-none").hidden = Boolean(layout);
  byId("map-plot").hidden = !layout;
  map.styles = styleGroups(map.grouping);
  drawLegend();
  if (!layout) return;
  const plot = byId("map-plot");
  window.Plotly.react(plot, listTraces(layout), mapLook(layout), PLOT_OPTIONS);
  if (plot.dataset.listening) return;
  plot.dataset.listening = "yes";
  for (const event of ["plotly_hover", "plotly_click"]) {
    plot.on(event, ({ points: [point] }) => point.customdata !== undefined && showPoint(point.customdata));
  }
}

/** A trace for each group, and on top of them the pointed-at profile with its nearest neighbour. */
function listTraces(layout) {
  const points = data[map.level];
  const type = points.length > MANY_POINTS ? "scattergl" : "scatter";
  const size = map.level === "wells" ? 8 : 11;
  const traces = [...map.styles].map(([group, { colour, shape }]) => {
    const rows = points.flatMap((point, i) => (GROUPINGS[map.grouping].of(point) === group ? [i] : []));
    const shown = map.alone.size === 0 || map.alone.has(group);
    return {
      type,
      mode: "markers",
      x: rows.map((i) => layout.x[i]),
      y: rows.map((i) => layout.y[i]),
      customdata: rows,
      hoverinfo: shown ? "none" : "skip",
      opacity: shown ? 0.95 : 0.1,
      marker: { color: colour, symbol: shape, size, line: { width: 1, color: ink("paper") } },
    };
  });
  const pointer = {
    type: "scatter",
    mode: "lines+markers",
    x: [],
    y: [],
    hoverinfo: "skip",
    line: { color: ink("ink"), width: 1.2, dash: "dot" },
    marker: { symbol: "circle-open", size: size + 8, color: ink("ink"), line: { width: 2 } },
  };
  return [...traces, pointer];
}

const PLOT_OPTIONS = {
  responsive: true,
  displaylogo: false,
  scrollZoom: false,
  modeBarButtons: [["toImage"], ["zoom2d", "pan2d"], ["zoomIn2d", "zoomOut2d", "resetScale2d"]],
  // Plotly would else offer to send the figure to its makers
  showSendToCloud: false,
  plotlyServerURL: "",
  toImageButtonOptions: { format: "svg", filename: "cytoclr" },
};

function plotLook() {
  return {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink("quiet"), family: getComputedStyle(document.body).fontFamily, size: 13 },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: ink("quiet"), activecolor: ink("ink") },
    showlegend: false,
    hovermode: "closest",
  };
}

function mapLook(layout) {
  const axis = { showticklabels: false, showgrid: false, zeroline: false, ticks: "" };
  return {
    ...plotLook(),
    margin: { l: layout.axes[1] ? 34 : 8, r: 8, t: 8, b: layout.axes[0] ? 34 : 8 },
    // a finger on the map scrolls the page
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "pan",
    xaxis: { ...axis, title: { text: layout.axes[0] } },
    yaxis: { ...axis, title: { text: layout.axes[1] }, scaleanchor: "x" },
    uirevision: `${map.level} ${map.method}`,
  };
}

/** The names of the groups; the first press shows a group alone, further presses add to it or take away. */
function drawLegend() {
  const present = new Set(data[map.level].map(GROUPINGS[map.grouping].of));
  const buttons = [...map.styles]
    .filter(([group]) => present.has(group))
    .map(([group, style]) => {
      const press = () => {
        if (!map.alone.delete(group)) map.alone.add(group);
        drawMap();
        showPoint(Number(byId("map-point").value));
        [...byId("map-legend").children].find((button) => button.textContent === group)?.focus();
      };
      const pressed = String(map.alone.size === 0 || map.alone.has(group));
      const attributes = { type: "button", "aria-pressed": pressed, onclick: press };
      return make("button", attributes, makeSwatch(style), named(group));
    });
  byId("map-legend").replaceChildren(...buttons);
}

/** Show a profile's cells and its nearest neighbour's, and ring both on the map. */
function showPoint(number) {
  const point = data[map.level][number];
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
  const ring = { x: [ringed.map((i) => layout.x[i])], y: [ringed.map((i) => layout.y[i])] };
  window.Plotly.restyle("map-plot", ring, [map.styles.size]);
}

function describePoint(point) {
  const mechanism = GROUPINGS.mechanism.of(point);
  const place = point.well ? [named(point.plate), " · well ", named(point.well)] : [named(point.batch)];
  const about = mechanism === UNKNOWN ? place : [named(mechanism), " · ", ...place];
  return [
    make("h4", {}, named(point.name)),
    make("p", { class: "about" }, ...about),
    point.cells.length ? makeCells(point.cells, 4, point.name) : make("p", { class: "about" }, "No cells of it are in this file."),
  ];
}

// ---- mechanisms ----

const table = { score: answered[0], sort: "name", up: true, only: null };
const COLUMNS = {
  name: { label: data.asked === "wells" ? "Well" : "Treatment", of: (match) => longName(match.asker) },
  mechanism: { label: "Mechanism", of: (match) => match.asker.mechanism ?? UNKNOWN },
  neighbour: { label: "Nearest neighbour", of: (match) => match.neighbour.name },
  found: { label: "Its mechanism", of: (match) => match.neighbour.mechanism ?? UNKNOWN },
  similarity: { label: "Similarity", of: (match) => match.similarity },
  right: { label: "Result", of: (match) => (match.right ? 0 : 1) },
};
/** Right or wrong; and what was voted for, where that is not the nearest neighbour's own mechanism. */
const describeVerdict = (match) =>
  match.predicted === match.neighbour.mechanism
    ? [verdictOf(match.right)]
    : [verdictOf(match.right), " ", make("span", { class: "quiet" }, "by vote: ", named(match.predicted))];
const PICTURED = 3;

function startMechanisms() {
  if (!answered.length) return;
  const options = Object.fromEntries(answered.map((score) => [score, SCORES[score]]));
  makeChoice(byId("match-score"), options, table.score, (score) => {
    table.score = score;
    table.only = null;
    drawConfusion();
    drawMatches();
  });
  byId("matches-all").addEventListener("click", () => showOnly(null));
  drawConfusion();
  drawMatches();
}

function drawConfusion() {
  const lines = matches[table.score];
  const names = [...new Set(lines.flatMap((match) => [COLUMNS.mechanism.of(match), match.predicted]))];
  names.sort(compareNames);
  const heads = names.map((name) => make("th", { scope: "col" }, make("span", {}, named(name))));
  const head = make("tr", {}, make("td"), ...heads, make("th", { scope: "col", class: "total" }, "right"));
  const rows = names.map((truth) => {
    const own = lines.filter((match) => COLUMNS.mechanism.of(match) === truth);
    const cells = names.map((found) => makeCount(own, truth, found));
    const right = own.filter((match) => match.right).length;
    const total = make("td", { class: "total" }, ...(own.length ? [make("strong", {}, String(right)), ` of ${own.length}`] : ["–"]));
    return make("tr", {}, make("th", { scope: "row" }, named(truth)), ...cells, total);
  });
  byId("confusion").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

function makeCount(own, truth, found) {
  const count = own.filter((match) => match.predicted === found).length;
  if (!count) return make("td", { class: "none" }, "·");
  const label = `${count} of ${own.length} ${truth} found ${found}`;
  const chosen = table.only?.truth === truth && table.only?.found === found;
  const press = () => showOnly(chosen ? null : { truth, found });
  const button = make("button", { type: "button", title: label, "aria-label": label, onclick: press }, String(count));
  const share = count / own.length;
  button.style.background = `color-mix(in oklab, var(--${truth === found ? "right" : "wrong"}) ${15 + 75 * share}%, var(--paper))`;
  button.style.color = share > 0.5 ? "var(--paper)" : "var(--ink)";
  button.classList.toggle("chosen", chosen);
  return make("td", {}, button);
}

function showOnly(only) {
  table.only = only;
  drawConfusion();
  drawMatches();
}

function drawMatches() {
  const { of } = COLUMNS[table.sort];
  const lines = matches[table.score].filter(
    (match) => !table.only || (COLUMNS.mechanism.of(match) === table.only.truth && match.predicted === table.only.found),
  );
  const order = (one, other) => (typeof of(one) === "number" ? of(one) - of(other) : compareNames(of(one), of(other)));
  lines.sort((one, other) => (table.up ? order(one, other) : order(other, one)));
  byId("matches-shown").textContent = `${lines.length} of ${matches[table.score].length} shown`;
  byId("matches-all").hidden = !table.only;
  byId("matches").replaceChildren(makeMatchHead(), make("tbody", {}, ...lines.map(makeMatchRow)));
}

function makeMatchHead() {
  const head = (key) => {
    const press = () => {
      table.up = table.sort === key ? !table.up : true;
      table.sort = key;
      drawMatches();
      byId("matches").querySelector("th[aria-sort] button").focus();
    };
    const sorted = table.sort === key ? (table.up ? "ascending" : "descending") : undefined;
    return make("th", { scope: "col", "aria-sort": sorted }, make("button", { type: "button", onclick: press }, COLUMNS[key].label));
  };
  const blank = () => make("th", {}, make("span", { class: "unseen" }, "Cells"));
  const heads = [head("name"), head("mechanism"), blank(), head("neighbour"), head("found"), blank(), head("similarity"), head("right")];
  return make("thead", {}, make("tr", {}, ...heads));
}

function nameAsker(point) {
  const name = named(point.name, { class: "who" });
  return point.well ? [name, make("span", { class: "quiet" }, named(point.plate), " ", named(point.well))] : [name];
}

function makeMatchRow(match) {
  const pictures = (point, side) => {
    const few = point.cells.slice(0, PICTURED);
    return make("td", { class: `pictures ${side}` }, ...(few.length ? [makeCells(few, PICTURED, point.name)] : []));
  };
  return make(
    "tr",
    {},
    make("td", { class: "first" }, ...nameAsker(match.asker)),
    make("td", { class: "first" }, named(COLUMNS.mechanism.of(match))),
    pictures(match.asker, "first"),
    make("td", { class: "second" }, named(match.neighbour.name, { class: "who" })),
    make("td", { class: "second" }, named(COLUMNS.found.of(match))),
    pictures(match.neighbour, "second"),
    make("td", { class: "number" }, match.similarity.toFixed(2)),
    make("td", {}, ...describeVerdict(match)),
  );
}

// ---- training ----

const STEP_INK = { opacity: 0.35, hoverinfo: "skip", hovertemplate: undefined, showlegend: false };

/** The small figures that the page's data name, each with a line for every metric; those of steps lie behind, faint. */
function drawTraining() {
  const counted = data.training.findLast((line) => line.event !== "step" && line.epoch > 0);
  const epochOf = counted ? (line) => (line.step * counted.epoch) / counted.step : (line) => line.epoch;
  for (const curve of data.curves) drawCurve(curve, epochOf);
}

function drawCurve({ key, title, lines, axis }, epochOf) {
  const own = lines.filter((line) => line.event === "epoch");
  const inks = [ink("right"), ink("wrong"), ...COLOURS.slice(2)];
  const traces = lines.map((line) => {
    const told = data.training.filter((of) => (of.event === "step") === (line.event === "step") && Number.isFinite(of[line.key]));
    const alone = own.every((other) => other.key !== line.key);
    const place = Math.max(0, own.findIndex((other) => other.key === line.key));
    return {
      type: "scatter",
      mode: line.event === "epoch" && told.length < 60 ? "lines+markers" : "lines",
      name: line.name,
      x: told.map(epochOf),
      y: told.map((of) => of[line.key]),
      line: { color: inks[place % inks.length], width: 2 },
      marker: { size: 5 },
      hovertemplate: `epoch %{x:.3~g}: %{y:${axis === "share" ? ".1%" : ".4~g"}}<extra>${own.length > 1 ? line.name : ""}</extra>`,
      ...(line.event === "step" && !alone ? STEP_INK : {}),
    };
  });
  const grid = { gridcolor: ink("line"), linecolor: ink("line"), zeroline: false };
  window.Plotly.react(
    byId(`curve-${key}`),
    traces,
    {
      ...plotLook(),
      margin: { l: 46, r: 8, t: own.length > 1 ? 26 : 8, b: 38 },
      showlegend: own.length > 1,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
      xaxis: { ...grid, title: { text: "epoch", standoff: 6, font: { size: 12 } }, showgrid: false, rangemode: "tozero" },
      yaxis: {
        ...grid,
        // of a logarithmic axis 1, 2 and 5 are named
        ...(axis === "log" ? { type: "log", dtick: "D2" } : { nticks: 5 }),
        rangemode: axis === "free" ? "normal" : "tozero",
        ...(axis === "share" ? { range: [0, 1], tickformat: ".0%" } : {}),
      },
    },
    PLOT_OPTIONS,
  );
}

// ---- begin ----

startMap();
startMechanisms();
drawTraining();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  drawMap();
  showPoint(Number(byId("map-point").value));
  drawTraining();
});
