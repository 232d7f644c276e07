// Runs beside each other: their maps, linked by treatment, and their trainings on one axis.

const compared = { method: "t-SNE", grouping: "mechanism", name: null };
const RIGHT_OR_WRONG = (score) => (point) => (point[score] === null ? "not scored" : point[score] ? "right" : "wrong");
const COMPARED_GROUPINGS = {
  mechanism: { label: "Mechanism", of: (point) => point.mechanism ?? UNKNOWN },
  compound: { label: "Compound", of: (point) => point.compound },
  nscb: { label: "Right or wrong, NSCB", of: RIGHT_OR_WRONG("nscb") },
  nsc: { label: "Right or wrong, NSC", of: RIGHT_OR_WRONG("nsc") },
};

/** Colour and shape of each group, the same in all maps. */
function styleCompared() {
  const { of } = COMPARED_GROUPINGS[compared.grouping];
  return styleNames(data.runs.flatMap((run) => run.treatments.map(of)), compared.grouping.startsWith("nsc"));
}

function startComparison() {
  makeChoice(byId("map-method"), { "t-SNE": "t-SNE", UMAP: "UMAP", PCA: "PCA" }, compared.method, (method) => {
    compared.method = method;
    drawMaps();
  });
  const colour = byId("map-colour");
  for (const [value, { label }] of Object.entries(COMPARED_GROUPINGS)) colour.append(make("option", { value }, label));
  colour.addEventListener("change", () => {
    compared.grouping = colour.value;
    drawMaps();
  });
  const names = [...new Set(data.runs.flatMap((run) => run.treatments.map((point) => point.name)))].sort(compareNames);
  byId("map-point").append(make("option", { value: "" }, "none"), ...names.map((name) => make("option", { value: name }, name)));
  byId("map-point").addEventListener("change", (event) => ringAll(event.target.value || null));
  data.runs.forEach((run, number) => {
    const plot = make("div", { id: `map-${number}`, class: "plot" });
    byId("maps").append(make("figure", { class: "card" }, make("figcaption", {}, named(run.name)), plot));
  });
  coloured.push(drawMaps, drawTrainings);
  drawMaps();
  drawTrainings();
}

function drawMaps() {
  const styles = styleCompared();
  const laidOut = data.runs.map((run) => run.layouts.find((layout) => layout.method === compared.method));
  byId("map-none").hidden = laidOut.every(Boolean);
  laidOut.forEach((layout, number) => layout && drawComparedMap(number, layout, styles));
  const entries = [...styles].map(([name, style]) => make("span", { class: "entry" }, makeSwatch(style), named(name)));
  byId("map-legend").replaceChildren(...entries);
}

function drawComparedMap(number, layout, styles) {
  const { treatments } = data.runs[number];
  const { of } = COMPARED_GROUPINGS[compared.grouping];
  const traces = [...styles].map(([group, { colour, shape }]) => {
    const rows = treatments.flatMap((point, i) => (of(point) === group ? [i] : []));
    return {
      type: treatments.length > 3000 ? "scattergl" : "scatter",
      mode: "markers",
      x: rows.map((i) => layout.x[i]),
      y: rows.map((i) => layout.y[i]),
      customdata: rows,
      hoverinfo: "none",
      marker: { color: colour, symbol: shape, size: 9, line: { width: 1, color: ink("paper") } },
    };
  });
  const ring = {
    type: "scatter",
    mode: "markers",
    x: [],
    y: [],
    hoverinfo: "skip",
    marker: { symbol: "circle-open", size: 19, color: ink("ink"), line: { width: 2.5 } },
  };
  const axis = { showticklabels: false, showgrid: false, zeroline: false, ticks: "" };
  const look = { ...plotLook(), margin: { l: 6, r: 6, t: 6, b: 6 }, dragmode: false, xaxis: axis, yaxis: { ...axis, scaleanchor: "x" } };
  const plot = byId(`map-${number}`);
  window.Plotly.react(plot, [...traces, ring], look, PLOT_OPTIONS);
  ringIn(number, compared.name);
  if (plot.dataset.listening) return;
  plot.dataset.listening = "yes";
  plot.on("plotly_hover", ({ points: [point] }) => point.customdata !== undefined && ringAll(treatments[point.customdata].name));
}

/** Ring a treatment in every map. */
function ringAll(name) {
  compared.name = name;
  byId("map-point").value = name ?? "";
  data.runs.forEach((_, number) => ringIn(number, name));
}

function ringIn(number, name) {
  const run = data.runs[number];
  const layout = run.layouts.find((one) => one.method === compared.method);
  const place = run.treatments.findIndex((point) => point.name === name);
  if (!layout) return;
  const at = place < 0 ? { x: [[]], y: [[]] } : { x: [[layout.x[place]]], y: [[layout.y[place]]] };
  const plot = byId(`map-${number}`);
  window.Plotly.restyle(plot, at, [plot.data.length - 1]);
}

const DASHES = ["solid", "dash", "dot", "dashdot"];

/** A colour a run, a dash a metric. */
function drawTrainings() {
  for (const { key, title, lines, axis } of data.curves) {
    const traces = data.runs.flatMap((run, number) =>
      lines.map((line, place) => {
        const told = run.training.filter((of) => (of.event === "step") === (line.event === "step") && Number.isFinite(of[line.key]));
        return {
          type: "scatter",
          mode: "lines",
          // the names of runs are anyone's, and Plotly reads some HTML: they stand in our own legend
          name: `${number}`,
          x: told.map((of) => of.epoch),
          y: told.map((of) => of[line.key]),
          line: { color: COLOURS[number % COLOURS.length], width: 2, dash: DASHES[place % DASHES.length] },
          hovertemplate: `epoch %{x}: %{y:${axis === "share" ? ".1%" : ".4~g"}}<extra>${line.name}</extra>`,
        };
      }),
    );
    drawAgainstEpochs(byId(`curve-${key}`), traces, axis);
    const runs = data.runs.map((run, number) => make("span", { class: "entry" }, makeSwatch({ colour: COLOURS[number % COLOURS.length], shape: "square" }), named(run.name)));
    const dashes = lines.length > 1 ? lines.map((line, place) => make("span", { class: "entry" }, `${DASHES[place % DASHES.length]}: ${line.name}`)) : [];
    const figure = byId(`curve-${key}`).closest("figure");
    figure.querySelector(".legend")?.remove();
    figure.querySelector("figcaption").before(make("div", { class: "legend", "aria-label": title }, ...runs, ...dashes));
  }
}

startComparison();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => coloured.forEach((draw) => draw()));
