// The course of the training.

const STEP_INK = { opacity: 0.35, hoverinfo: "skip", hovertemplate: undefined, showlegend: false };

function startTraining() {
  coloured.push(drawTraining);
  drawTraining();
}

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
  const legend = { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } };
  const several = own.length > 1 ? { margin: { l: 46, r: 8, t: 26, b: 38 }, showlegend: true, legend } : {};
  drawAgainstEpochs(byId(`curve-${key}`), traces, axis, several);
}
