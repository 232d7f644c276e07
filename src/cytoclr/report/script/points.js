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

/** Who asks for a point of the map: cells ask by their well, and wells by their treatment, unless each asks for itself. */
const askerOf = (point) => (point.well && data.asked === "treatments" ? data.treatments[point.treatment] : (point.home ?? point));
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
const NEUTRAL_COLOUR = "#8b939b";
const NEUTRAL = [UNTREATED, "several", UNKNOWN, ASKED_BY_WELL, "not scored"];

/** Colour and shape of every group, the same for wells and treatments. */
const styleGroups = (grouping) => styleNames([...data.treatments, ...data.wells].map(GROUPINGS[grouping].of), grouping in matches);

/** Colour and shape of every name; of verdicts always the same. What says nothing of a point is grey, and last. */
function styleNames(names, areVerdicts) {
  const found = new Set(names);
  const neutral = NEUTRAL.filter((name) => found.has(name));
  const plain = [...found].filter((name) => !NEUTRAL.includes(name)).sort(compareNames);
  const styles = new Map();
  plain.forEach((name, number) => {
    const style = {
      colour: COLOURS[number % COLOURS.length],
      shape: SHAPES[Math.floor(number / COLOURS.length) % SHAPES.length],
    };
    styles.set(name, areVerdicts ? FIXED[name] : style);
  });
  neutral.forEach((name, number) => styles.set(name, { colour: NEUTRAL_COLOUR, shape: ["circle", "square"][number % 2] }));
  return styles;
}

function makeSwatch({ colour, shape }) {
  const svg = makeSvg("svg", { width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": true });
  svg.append(makeSvg("path", { d: PATHS[shape], fill: colour }));
  return svg;
}

// ---- concentrations: a scale of colours instead of groups ----

// viridis (van der Walt and Smith 2015), at ten equal steps
const VIRIDIS_STOPS = ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];
/** So many colours at most, for points of one colour are drawn together. */
const DOSE_STEPS = 48;
/** Nearer ticks than this share of the scale would write over each other. */
const TICK_SHARE = 0.13;

/** Red, green and blue at a share of the scale. */
function mixViridis(share) {
  const place = Math.min(Math.max(share, 0), 1) * (VIRIDIS_STOPS.length - 1);
  const [low, high] = [Math.floor(place), Math.ceil(place)].map((i) => parseInt(VIRIDIS_STOPS[i].slice(1), 16));
  return [16, 8, 0].map((bits) => {
    const from = (low >> bits) & 255;
    return Math.round(from + (place % 1) * (((high >> bits) & 255) - from));
  });
}

const viridisAt = (share) => `rgb(${mixViridis(share).join(",")})`;

const spellDose = (dose) => String(Number(dose.toPrecision(6)));

/** The scale of all concentrations; logarithmic where they span more than ten times. None, where they do not differ. */
function makeDoseScale() {
  const doses = [...new Set([...data.treatments, ...data.wells].map((point) => point.dose))].filter((dose) => dose > 0);
  doses.sort((one, other) => one - other);
  if (doses.length < 2) return null;
  const [low, high] = [doses[0], doses.at(-1)];
  const log = high / low > 10;
  const shareOf = log
    ? (dose) => Math.log(dose / low) / Math.log(high / low)
    : (dose) => (dose - low) / (high - low);
  const colourOf = (dose) => viridisAt(Math.round(shareOf(dose) * DOSE_STEPS) / DOSE_STEPS);
  return { low, high, log, shareOf, colourOf, ticks: chooseTicks(doses.length > 12 ? roundDoses(low, high, log) : doses, shareOf) };
}

/** 1, 2 and 5 of each power of ten, or equal steps of them; and both ends. */
function roundDoses(low, high, log) {
  const found = [low, high];
  if (log) {
    const powers = Array.from({ length: 40 }, (_, i) => 10 ** (i - 20));
    // whole powers first, so that they stay where there is no room for others
    for (const factor of [1, 2, 5]) found.push(...powers.map((power) => factor * power));
  } else {
    const power = 10 ** Math.floor(Math.log10(high - low));
    const step = [0.2, 0.5, 1, 2].map((factor) => factor * power).find((size) => (high - low) / size <= 6);
    for (let i = Math.ceil(low / step); i * step < high; i += 1) found.push(i * step);
  }
  return found.filter((dose) => dose >= low && dose <= high);
}

/** Both ends, and of the others those that have room. */
function chooseTicks(doses, shareOf) {
  const ends = [Math.min(...doses), Math.max(...doses)];
  const chosen = [...ends];
  for (const dose of doses) {
    if (chosen.every((other) => Math.abs(shareOf(other) - shareOf(dose)) >= TICK_SHARE)) chosen.push(dose);
  }
  return chosen.sort((one, other) => one - other);
}

/** A bar of the scale's colours with its ticks. */
function makeDoseLegend(scale) {
  const bar = make("div", { class: "ramp" });
  const stops = Array.from({ length: 13 }, (_, i) => viridisAt(i / 12));
  bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const ticks = scale.ticks.map((dose) => {
    const tick = make("span", {}, spellDose(dose));
    tick.style.left = `${100 * scale.shareOf(dose)}%`;
    return tick;
  });
  const about = `Concentration from ${spellDose(scale.low)} to ${spellDose(scale.high)} µM, ${scale.log ? "logarithmic" : "linear"}`;
  const drawn = make("div", { class: "scale", role: "img", "aria-label": about }, bar, make("div", { class: "ticks" }, ...ticks));
  const unit = make("span", { class: "quiet" }, `Concentration, µM${scale.log ? " (logarithmic)" : ""}`);
  const none = make("span", { class: "none" }, makeSwatch({ colour: NEUTRAL_COLOUR, shape: "circle" }), "untreated, or none told");
  return [unit, drawn, none];
}
