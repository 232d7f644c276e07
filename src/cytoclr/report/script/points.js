// Who matched whom, and by what points are coloured and shaped.

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
  const svg = makeSvg("svg", { width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": true });
  svg.append(makeSvg("path", { d: PATHS[shape], fill: colour }));
  return svg;
}
