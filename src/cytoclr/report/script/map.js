// The map of profiles: points, legend, and the card of the one that is pointed at.

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
  coloured.push(() => {
    drawMap();
    showPoint(Number(byId("map-point").value));
  });
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
