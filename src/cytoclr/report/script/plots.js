// How Plotly's figures look, in the colours of the page.

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

/** Draw lines against epochs; `axis` is of the values: free, from-nought, log or share. */
function drawAgainstEpochs(place, traces, axis, look = {}) {
  const grid = { gridcolor: ink("line"), linecolor: ink("line"), zeroline: false };
  const values = {
    ...grid,
    // of a logarithmic axis 1, 2 and 5 are named
    ...(axis === "log" ? { type: "log", dtick: "D2" } : { nticks: 5 }),
    rangemode: axis === "free" ? "normal" : "tozero",
    ...(axis === "share" ? { range: [0, 1], tickformat: ".0%" } : {}),
  };
  const epochs = { ...grid, title: { text: "epoch", standoff: 6, font: { size: 12 } }, showgrid: false, rangemode: "tozero" };
  const layout = { ...plotLook(), margin: { l: 46, r: 8, t: 8, b: 38 }, xaxis: epochs, yaxis: values, ...look };
  window.Plotly.react(place, traces, layout, PLOT_OPTIONS);
}
