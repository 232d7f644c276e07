// Treatments: who found whom, who is like whom, and all that is known of one.

const table = { score: answered[0], sort: "name", up: true, only: null, limit: 0 };
const COLUMNS = {
  name: { label: data.asked === "wells" ? "Well" : "Treatment", of: (match) => nameFully(match.asker) },
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
const nameFully = (point) => (point.well ? `${point.name} · ${point.plate} ${point.well}` : point.name);
const PICTURED = 3;
const ROWS_AT_ONCE = 200;

function startTreatments() {
  startMatches();
  startHeat();
  startOneTreatment();
}

// ---- mechanisms against mechanisms, and the table of matches ----

function startMatches() {
  if (!answered.length) return;
  const options = Object.fromEntries(answered.map((score) => [score, SCORES[score]]));
  makeChoice(byId("match-score"), options, table.score, (score) => {
    table.score = score;
    showOnly(null);
  });
  byId("matches-all").addEventListener("click", () => showOnly(null));
  byId("matches-more").addEventListener("click", () => {
    const before = table.limit;
    table.limit += ROWS_AT_ONCE;
    drawMatches();
    // the button may be gone: who came by keyboard goes on at the first new row
    byId("matches").tBodies[0].rows[before]?.querySelector("button")?.focus();
  });
  showOnly(null);
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
  const press = () => {
    showOnly(chosen ? null : { truth, found });
    // the matrix is drawn anew: the focus stays where it was, and the table comes into view
    findCount(label)?.focus({ preventScroll: true });
    if (!chosen) byId("matches-title").scrollIntoView({ block: "nearest" });
  };
  const attributes = { type: "button", title: label, "aria-label": label, "aria-pressed": String(chosen), onclick: press };
  const button = make("button", attributes, String(count));
  const share = count / own.length;
  button.style.background = `color-mix(in oklab, var(--${truth === found ? "right" : "wrong"}) ${15 + 75 * share}%, var(--paper))`;
  button.style.color = share > 0.5 ? "var(--paper)" : "var(--ink)";
  button.classList.toggle("chosen", chosen);
  return make("td", {}, button);
}

const findCount = (label) => [...byId("confusion").querySelectorAll("button")].find((button) => button.title === label);

function showOnly(only) {
  table.only = only;
  table.limit = ROWS_AT_ONCE;
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
  const left = lines.length - table.limit;
  const first = left > 0 ? `, the first ${table.limit} of them here` : "";
  byId("matches-shown").textContent = `${lines.length} of ${matches[table.score].length} shown${first}`;
  byId("matches-all").hidden = !table.only;
  byId("matches-more").hidden = left <= 0;
  byId("matches-more").textContent = `Show ${Math.min(left, ROWS_AT_ONCE)} more`;
  const rows = lines.slice(0, table.limit).map(makeMatchRow);
  byId("matches").replaceChildren(makeMatchHead(), make("tbody", {}, ...rows));
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

/** The number of a treatment, or of that of a well. */
const numbersOfTreatments = new Map(data.treatments.map((point, number) => [point, number]));
const treatmentOf = (point) => (point.well ? point.treatment : numbersOfTreatments.get(point));

/** A name that leads to its treatment. */
function makeWay(point, name = point.name) {
  const press = () => goToTreatment(treatmentOf(point));
  return make("button", { type: "button", class: "way", onclick: press }, named(name));
}

function nameAsker(point) {
  const name = make("span", { class: "who" }, makeWay(point));
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
    make("td", { class: "second" }, make("span", { class: "who" }, makeWay(match.neighbour))),
    make("td", { class: "second" }, named(COLUMNS.found.of(match))),
    pictures(match.neighbour, "second"),
    make("td", { class: "number" }, match.similarity.toFixed(2)),
    make("td", {}, ...describeVerdict(match)),
  );
}

// ---- who is like whom: similarities as a heat map ----

// RdBu (Brewer 2003) on paper; berlin (Crameri 2018), whose middle is dark, in the dark: the red-green-blind tell both
const HEAT_STOPS = {
  light: ["#053061", "#2065ab", "#4393c3", "#90c4dd", "#d1e5f0", "#f7f6f6", "#fddbc7", "#f3a481", "#d6604d", "#b1182b", "#67001f"],
  dark: ["#9eb0ff", "#62a6e0", "#3280a6", "#20526a", "#112732", "#190c09", "#371000", "#61200b", "#964a36", "#ca7b71", "#ffadad"],
};
/** Rows at least so high, in px, have their names beside them. */
const HEAT_NAMED_PX = 11;
const HEAT_STRIP_PX = 10;
const heat = { values: null, at: null, place: null, drawn: null, width: 0 };

function startHeat() {
  const { heat: told } = data.relations;
  const count = told.rows.length;
  const few = count < 2;
  byId("heat-card").hidden = few;
  byId("heat-about").replaceChildren(few ? "Fewer than two treatments: there is nothing to compare." : describeHeat(told));
  if (few) return;
  const bytes = Uint8Array.from(atob(told.similarities), (character) => character.charCodeAt(0));
  heat.values = new Int8Array(bytes.buffer);
  const canvas = byId("heat");
  for (const event of ["pointermove", "pointerdown"]) {
    canvas.addEventListener(event, (pointed) => {
      const at = findHeatPlace(pointed);
      if (at) pointHeatAt(at);
    });
  }
  canvas.addEventListener("click", (event) => {
    const at = findHeatPlace(event);
    // a finger cannot point first: it reads, and the names that are read lead on
    if (at && event.pointerType !== "touch") goToTreatment(told.rows[at.row]);
  });
  canvas.addEventListener("keydown", steerHeat);
  heat.at = { row: 1, column: 0 };
  readHeat();
  coloured.push(drawHeat);
  new ResizeObserver(() => canvas.clientWidth !== heat.width && drawHeat()).observe(canvas);
}

function describeHeat({ of, left_out, by, rows }) {
  const what =
    of === "compounds"
      ? `There are too many treatments to draw, so each row is a compound, the mean of its treatments (${rows.length} compounds).`
      : left_out
        ? `Shown are the ${rows.length} treatments ${by === "activity" ? "whose replicates agree best" : "farthest from the untreated"}; ${left_out.toLocaleString("en")} are not.`
        : `All ${rows.length} treatments, each against each.`;
  return `${what} Look for red blocks on the diagonal: groups that do the same to cells. A good profile makes blocks of one mechanism, \
which the strips along the edges tell. Similarity is the cosine of two profiles, from −1 (opposite) over 0 (unlike) to 1 (the same); \
rows are ordered by clustering (average linkage, optimal leaf order).`;
}

/** Similarity of two rows. */
function heatValue(one, other) {
  const [low, high] = one < other ? [one, other] : [other, one];
  return heat.values[(high * (high + 1)) / 2 + low] / 127;
}

const heatColours = () => {
  const stops = HEAT_STOPS[matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"];
  const parts = stops.map((stop) => [1, 3, 5].map((from) => parseInt(stop.slice(from, from + 2), 16)));
  return Array.from({ length: 255 }, (_, number) => {
    const place = (number / 254) * (parts.length - 1);
    const low = Math.min(Math.floor(place), parts.length - 2);
    return parts[low].map((part, i) => Math.round(part + (place - low) * (parts[low + 1][i] - part)));
  });
};

/** Where what is drawn, in CSS px: names at the left where there is room, strips at the left and the top. */
function placeHeat(width) {
  const count = data.relations.heat.rows.length;
  const labels = width >= 560 && (width - 170) / count >= HEAT_NAMED_PX ? 160 : 0;
  const strip = data.treatments.some((point) => point.mechanism) ? HEAT_STRIP_PX + 3 : 0;
  const x = labels + strip;
  return { labels, x, y: strip, size: Math.floor(width - x), count };
}

function drawHeat() {
  heat.width = byId("heat").clientWidth;
  if (!heat.width) return;
  heat.place = placeHeat(heat.width);
  const { x, y, size, count, labels } = heat.place;
  const ratio = devicePixelRatio;
  heat.drawn = make("canvas", { width: Math.round(heat.width * ratio), height: Math.round((size + y) * ratio) });
  const context = heat.drawn.getContext("2d");
  context.scale(ratio, ratio);
  context.imageSmoothingEnabled = false;
  context.drawImage(paintHeat(count), x, y, size, size);
  const points = data.relations.heat.rows.map((row) => data.treatments[row]);
  const step = size / count;
  if (y) {
    const styles = styleGroups("mechanism");
    points.forEach((point, number) => {
      context.fillStyle = styles.get(GROUPINGS.mechanism.of(point)).colour;
      context.fillRect(labels, y + number * step, HEAT_STRIP_PX, Math.ceil(step));
      context.fillRect(x + number * step, 0, Math.ceil(step), HEAT_STRIP_PX);
    });
    drawHeatLegend(points, styles);
  }
  if (labels) {
    context.fillStyle = ink("quiet");
    context.font = `${Math.min(12, step - 1)}px ${getComputedStyle(document.body).fontFamily}`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    data.relations.heat.names.forEach((name, number) => {
      context.fillText(shortenTo(context, name, labels - 8), labels - 6, y + (number + 0.5) * step);
    });
  }
  drawHeatScale();
  markHeat();
}

/** One pixel a pair. */
function paintHeat(count) {
  const small = make("canvas", { width: count, height: count });
  const context = small.getContext("2d");
  const image = context.createImageData(count, count);
  const colours = heatColours();
  let at = 0;
  for (let row = 0; row < count; row += 1) {
    for (let column = 0; column <= row; column += 1) {
      const colour = colours[heat.values[at] + 127];
      for (const place of [row * count + column, column * count + row]) {
        image.data.set(colour, 4 * place);
        image.data[4 * place + 3] = 255;
      }
      at += 1;
    }
  }
  context.putImageData(image, 0, 0);
  return small;
}

function shortenTo(context, text, width) {
  if (context.measureText(text).width <= width) return text;
  const letters = [...text].slice(0, 60);
  while (letters.length > 1 && context.measureText(`${letters.join("")}…`).width > width) letters.pop();
  return `${letters.join("")}…`;
}

/** The heat map, and a frame around what is pointed at. */
function markHeat() {
  const canvas = byId("heat");
  // setting a size clears, so it is set only where it changed: the page would else be laid out with every move
  if (canvas.width !== heat.drawn.width) canvas.width = heat.drawn.width;
  if (canvas.height !== heat.drawn.height) canvas.height = heat.drawn.height;
  const context = canvas.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(heat.drawn, 0, 0);
  context.scale(devicePixelRatio, devicePixelRatio);
  const { x, y, size, count } = heat.place;
  const { row, column } = heat.at;
  const step = size / count;
  const side = Math.max(step, 5);
  context.lineWidth = 2;
  for (const [colour, grown] of [[ink("paper"), 3], [ink("ink"), 1]]) {
    context.strokeStyle = colour;
    context.strokeRect(x + (column + 0.5) * step - side / 2 - grown, y + (row + 0.5) * step - side / 2 - grown, side + 2 * grown, side + 2 * grown);
  }
}

function drawHeatScale() {
  const ramp = make("div", { class: "heat-ramp" });
  const colours = heatColours().filter((_, number) => number % 16 === 15 || number === 0 || number === 254);
  ramp.style.background = `linear-gradient(to right, ${colours.map((colour) => `rgb(${colour.join(",")})`).join(", ")})`;
  const ends = ["−1 opposite", "0", "1 the same"].map((text) => make("span", {}, text));
  const drawn = make("div", { role: "img", "aria-label": "Scale from −1, blue, over 0 to 1, red" }, ramp, make("div", { class: "heat-ticks" }, ...ends));
  byId("heat-scale").replaceChildren(make("p", { class: "quiet" }, "Similarity (cosine)"), drawn);
}

function drawHeatLegend(points, styles) {
  const present = new Set(points.map(GROUPINGS.mechanism.of));
  const shown = [...styles].filter(([name]) => present.has(name));
  const entries = shown.map(([name, { colour }]) => make("li", {}, makeSwatch({ colour, shape: "square" }), named(name)));
  const colours = new Set(shown.map(([, { colour }]) => colour));
  const repeated = colours.size < shown.length ? [make("p", { class: "quiet" }, "Colours come again; the names above tell which it is.")] : [];
  byId("heat-legend").replaceChildren(make("p", { class: "quiet" }, "Mechanism"), make("ul", {}, ...entries), ...repeated);
}

function findHeatPlace(event) {
  const { x, y, size, count } = heat.place;
  const [row, column] = [event.offsetY - y, event.offsetX - x].map((at) => Math.floor((at * count) / size));
  const inside = [row, column].every((at) => at >= 0 && at < count);
  return inside ? { row, column } : null;
}

function pointHeatAt(at) {
  if (heat.at.row === at.row && heat.at.column === at.column) return;
  heat.at = at;
  readHeat();
  markHeat();
}

/** Both names and the similarity of what is pointed at. */
function readHeat() {
  const { rows, names } = data.relations.heat;
  const [own, other] = [heat.at.row, heat.at.column].map((number) => {
    const point = data.treatments[rows[number]];
    return make("span", { class: "heat-name" }, makeWay(point, names[number]), make("span", { class: "quiet" }, named(GROUPINGS.mechanism.of(point))));
  });
  const value = heatValue(heat.at.row, heat.at.column).toFixed(2).replace("-", "−");
  byId("heat-said").replaceChildren(make("p", { class: "heat-value" }, value), own, make("span", { class: "quiet" }, "and"), other);
}

function steerHeat(event) {
  const moves = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  const { rows } = data.relations.heat;
  if (event.key === "Enter") goToTreatment(rows[heat.at.row]);
  if (!moves[event.key]) return;
  event.preventDefault();
  const [down, right] = moves[event.key];
  const held = (at) => Math.min(Math.max(at, 0), rows.length - 1);
  pointHeatAt({ row: held(heat.at.row + down), column: held(heat.at.column + right) });
}

// ---- finding a treatment by its name ----

const FOUND_AT_ONCE = 40;
const inOrder = data.treatments.map((_, number) => number).sort((one, other) => compareNames(data.treatments[one].name, data.treatments[other].name));
const numberOfName = new Map(data.treatments.map(({ name }, number) => [name, number]));

/** A field in which part of a name finds a treatment, and buttons to the one before and after; returns what shows a choice. */
function makeFinder(place, choose) {
  const list = make("datalist", { id: `${place.id}-names` });
  const field = make("input", { type: "search", list: list.id, autocomplete: "off", spellcheck: "false", placeholder: "part of a name" });
  const said = make("span", { class: "quiet", "aria-live": "polite" });
  let chosen = -1;
  const find = (text) => inOrder.filter((number) => data.treatments[number].name.toLowerCase().includes(text.toLowerCase()));
  const offer = () => {
    const found = find(field.value);
    list.replaceChildren(...found.slice(0, FOUND_AT_ONCE).map((number) => make("option", { value: data.treatments[number].name })));
    said.textContent = field.value && numberOfName.get(field.value) === undefined ? `${found.length} found` : "";
    return found;
  };
  const take = (number) => {
    if (number === undefined || number === chosen) return;
    choose(number);
  };
  field.addEventListener("focus", () => field.select());
  field.addEventListener("input", () => {
    offer();
    take(numberOfName.get(field.value));
  });
  // Enter, or leaving the field, takes the first that is found
  field.addEventListener("change", () => {
    const number = numberOfName.get(field.value) ?? offer()[0];
    if (number === undefined) said.textContent = "No treatment has this in its name.";
    else if (number === chosen) show(number);
    else take(number);
  });
  const step = (by) => {
    const at = inOrder.indexOf(chosen) + by;
    take(inOrder[(at + inOrder.length) % inOrder.length]);
  };
  const before = make("button", { type: "button", "aria-label": "The one before", onclick: () => step(-1) }, "‹");
  const after = make("button", { type: "button", "aria-label": "The next one", onclick: () => step(1) }, "›");
  place.append(make("label", { class: "pick" }, "Name ", field), list, before, after, said);
  const show = (number) => {
    chosen = number;
    field.value = data.treatments[number].name;
    said.textContent = "";
  };
  return show;
}

// ---- one treatment ----

const ABREAST_ACROSS = 4;
const ABREAST_CELLS = 8;
/** Side of a cell on the page, in CSS px. */
const CELL_CSS_PX = 64;
const SERIES_CSS_PX = 48;
const SERIES_CELLS = 6;
const treatmentShown = { number: -1, show: null };
const ADDRESS = "#treatment=";

function startOneTreatment() {
  if (!data.treatments.length) {
    byId("treatment").replaceChildren(make("p", {}, "No treatment has a profile."));
    return;
  }
  treatmentShown.show = makeFinder(byId("treatment-finder"), (number) => {
    history.replaceState(null, "", spellAddress(number));
    showTreatment(number);
  });
  byId("abreast-larger").addEventListener("click", () => {
    const about = [GROUPINGS.mechanism.of(data.treatments[treatmentShown.number])];
    openGallery(data.treatments[treatmentShown.number].name, about.map((text) => named(text)), listAbreast(treatmentShown.number));
  });
  coloured.push(() => drawSeries(treatmentShown.number));
  addEventListener("hashchange", followAddress);
  const first = answered.length ? treatmentOf(matches[answered[0]][0].asker) : inOrder[0];
  if (!followAddress()) showTreatment(first);
}

const spellAddress = (number) => ADDRESS + encodeURIComponent(data.treatments[number].name);

/** Show the treatment that the address names, if it names one. */
function followAddress() {
  if (!location.hash.startsWith(ADDRESS)) return false;
  let name = location.hash.slice(ADDRESS.length);
  try {
    name = decodeURIComponent(name);
  } catch (error) {
    if (!(error instanceof URIError)) throw error; // a lone % that someone typed: taken as it stands
  }
  const number = numberOfName.get(name);
  if (number === undefined) return false;
  showTreatment(number);
  byId("treatment-title").scrollIntoView();
  byId("treatment").focus({ preventScroll: true });
  return true;
}

/** Go to a treatment from anywhere in the page; the browser's way back leads back. */
function goToTreatment(number) {
  if (number === undefined || number < 0) return;
  if (location.hash === spellAddress(number)) followAddress();
  else location.hash = spellAddress(number);
}

function showTreatment(number) {
  treatmentShown.number = number;
  treatmentShown.show(number);
  const point = data.treatments[number];
  byId("treatment-name").replaceChildren(named(point.name));
  byId("treatment-about").replaceChildren(...describeTreatment(number));
  byId("treatment-verdicts").replaceChildren(...describeVerdicts(number));
  drawAbreast(number);
  drawNear(number);
  drawSeries(number);
}

/** Mechanism, batch, plates, number of cells, agreement of replicates: one after the other. */
function describeTreatment(number) {
  const { mechanism, batch } = data.treatments[number];
  const plates = [...new Set(wellsOf(number).map(({ plate }) => plate))].sort(compareNames);
  const wells = wellsOf(number).length;
  const parts = [
    mechanism ? [named(mechanism)] : ["mechanism not known"],
    [batch === "several" ? "several batches" : named(batch)],
    [`${wells} ${wells === 1 ? "well" : "wells"} on `, named(plates.length > 4 ? `${plates.length} plates` : plates.join(", "))],
    [`${data.relations.cells[number].toLocaleString("en")} cells`],
    ...(data.relations.map[number] === null ? [] : [[sayActivity(number)]]),
  ];
  return parts.flatMap((part, place) => (place ? [" · ", ...part] : part));
}

const wellsOf = (number) => data.wells.filter((well) => well.treatment === number && !well.control);

function sayActivity(number) {
  const { map, p, active } = data.relations;
  const shown = p[number] < 0.001 ? "< 0.001" : `= ${p[number]?.toFixed(3)}`;
  return `replicates mAP ${map[number].toFixed(2)}, ${active[number] ? "active" : "not active"} (corrected p ${shown})`;
}

/** The matches of a treatment under a score: one, or as many as it has wells that were asked. */
const matchesOf = (score, number) => (matches[score] ?? []).filter((match) => treatmentOf(match.asker) === number);
const bestOf = (found) => found.reduce((best, match) => (best && best.similarity >= match.similarity ? best : match), undefined);

function describeVerdicts(number) {
  if (!answered.length) return [make("p", { class: "note" }, "Nothing is scored here, so nobody tells right from wrong.")];
  return Object.entries(SCORES).map(([score, label]) => {
    const found = matchesOf(score, number);
    const match = bestOf(found);
    const name = make("strong", {}, score.toUpperCase());
    if (!match) return make("p", {}, name, ` not scored: its mechanism is not known, or nobody was allowed to answer (${label}).`);
    const right = found.filter((of) => of.right).length;
    const verdict = found.length > 1 ? [`right in ${right} of ${found.length} wells. Nearest of any well: `] : [...describeVerdict(match), ". Nearest: "];
    const mechanism = named(match.neighbour.mechanism ?? UNKNOWN);
    return make("p", {}, name, " ", ...verdict, makeWay(match.neighbour), " (", mechanism, `), similarity ${match.similarity.toFixed(2).replace("-", "−")}.`);
  });
}

const hasTypical = data.treatments.some((point) => point.typical.length);
const typicalOf = (number, most) => {
  const { typical, cells } = data.treatments[number];
  return (typical.length ? typical : cells).slice(0, most);
};

/** Untreated cells of the same plates, where there are any; of each plate in turn. */
function untreatedOf(number, most) {
  const { untreated } = data.relations;
  const own = [...new Set(wellsOf(number).map(({ plate }) => plate))].filter((plate) => untreated[plate]?.length);
  const plates = (own.length ? own : Object.keys(untreated)).map((plate) => untreated[plate]);
  const longest = Math.max(0, ...plates.map((tiles) => tiles.length));
  const tiles = Array.from({ length: longest }, (_, turn) => plates.flatMap((of) => of.slice(turn, turn + 1))).flat();
  return { tiles: tiles.slice(0, most), note: own.length ? "by chance, of the same plates" : "by chance, of all plates" };
}

/** Its cells, those of whom it matched, and untreated ones. */
function listAbreast(number) {
  const kind = hasTypical ? "most typical" : "by chance";
  const groups = [{ name: data.treatments[number].name, note: kind, tiles: typicalOf(number, ABREAST_CELLS) }];
  const found = answered.map((score) => [score, bestOf(matchesOf(score, number))]).filter(([, match]) => match);
  for (const { name, typical, cells } of new Set(found.map(([, match]) => match.neighbour))) {
    const scores = found.filter(([, match]) => match.neighbour.name === name).map(([score]) => score.toUpperCase());
    const tiles = (typical.length ? typical : cells).slice(0, ABREAST_CELLS);
    groups.push({ name, note: `its match under ${scores.join(" and ")}, ${kind}`, tiles });
  }
  const { tiles, note } = untreatedOf(number, ABREAST_CELLS);
  return [...groups, { name: "untreated", note, tiles }];
}

/** A figure of cells in a fixed size, so that cells of all figures are equally large. */
function makeCellFigure({ name, note, tiles }, across, px) {
  const caption = make("figcaption", {}, named(name), " ", make("span", { class: "quiet" }, note));
  if (!tiles.length) return make("figure", {}, caption, make("p", { class: "note" }, "No cells of it are in this file."));
  const picture = makeCells(tiles, across, `${name}, ${note}`);
  picture.style.width = `${across * px}px`;
  const figure = make("figure", {}, caption, picture);
  figure.style.width = `${across * px}px`;
  return figure;
}

function drawAbreast(number) {
  const groups = listAbreast(number);
  byId("abreast-note").textContent =
    "Does it look like its match, and unlike the untreated? Contrast is set once for a plate and channel, never for a cell. " +
    (hasTypical ? "" : "Without embeddings no cell is more typical than another, so cells are drawn by chance.");
  const figures = groups.map((group) => makeCellFigure(group, ABREAST_ACROSS, CELL_CSS_PX));
  byId("abreast").replaceChildren(...figures, makeScaleBar(CELL_CSS_PX / data.tiles.px));
}

function drawNear(number) {
  const near = data.relations.neighbours[number];
  const own = data.treatments[number].mechanism;
  byId("near-note").textContent = near.length
    ? "By cosine of treatment profiles. A neighbour of the same batch may be near for what the batch has in common: NSCB does not admit it."
    : "There is no other compound.";
  const yes = (value, words = ["yes", "no"]) => (value === null ? "–" : words[value ? 0 : 1]);
  const heads = ["Treatment", "Mechanism", "Same mechanism?", "Similarity", "Other batch?", "NSC admits it", "NSCB admits it"];
  const rows = near.map(([other, similarity, apart, nsc, nscb]) => {
    const point = data.treatments[other];
    const agrees = own && point.mechanism ? make("span", { class: own === point.mechanism ? "right" : "wrong" }, own === point.mechanism ? "✓ same" : "✗ other") : "–";
    return make(
      "tr",
      {},
      make("td", {}, makeWay(point)),
      make("td", {}, named(point.mechanism ?? UNKNOWN)),
      make("td", {}, agrees),
      make("td", { class: "number" }, similarity.toFixed(2).replace("-", "−")),
      make("td", {}, yes(apart)),
      make("td", {}, yes(nsc)),
      make("td", {}, yes(nscb)),
    );
  });
  const head = make("tr", {}, ...heads.map((text) => make("th", { scope: "col", class: text === "Similarity" ? "number" : undefined }, text)));
  byId("near").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
}

// ---- doses of its compound ----

function drawSeries(number) {
  const { dose, length, to_highest: toHighest, map, centred, well_length: wellLength } = data.relations;
  const { compound } = data.treatments[number];
  const rows = data.treatments.flatMap((point, i) => (point.compound === compound && dose[i] > 0 ? [i] : []));
  rows.sort((some, other) => dose[some] - dose[other]);
  const several = rows.length > 1;
  for (const id of ["series-plots", "series-scroll", "series-scale"]) byId(id).hidden = !several;
  if (!several) {
    byId("series-note").textContent = "It was given in one dose only, so there is no course of doses.";
    return;
  }
  const measured = rows.some((i) => map[i] !== null);
  byId("series-note").textContent =
    "From which dose on do cells change, and is it the same change at all doses? A dose that does nothing stays low in the first figure and unlike the highest dose in the second." +
    (measured ? " In the third, 1 means that replicates find each other before all untreated wells." : " Agreement of replicates is not measured here.") +
    (wellLength !== null && centred ? " The dashed line is a single untreated well (median)." : "");
  const distance = centred ? "Distance to the untreated" : "Length of the profile (not measured from the untreated)";
  byId("series-length-title").textContent = `${distance}, in units of the profile`;
  byId("series-map-figure").hidden = !measured;
  const doses = rows.map((i) => dose[i]);
  const marked = rows.indexOf(number);
  drawSeriesPlot("series-length", doses, rows.map((i) => length[i]), marked, { from: 0, line: centred ? wellLength : null });
  drawSeriesPlot("series-highest", doses, rows.map((i) => toHighest[i]), marked, { from: Math.min(0, ...rows.map((i) => toHighest[i])), to: 1 });
  if (measured) drawSeriesPlot("series-map", doses, rows.map((i) => map[i]), marked, { from: 0, to: 1 });
  fillSeries(rows, number, measured, distance);
}

function drawSeriesPlot(id, doses, values, marked, { from, to, line = null }) {
  const grid = { gridcolor: ink("line"), linecolor: ink("line"), zeroline: false };
  const top = to ?? Math.max(...values, line ?? 0);
  const room = 0.06 * (top - from);
  const few = doses.length <= 6;
  const trace = {
    type: "scatter",
    mode: "lines+markers",
    x: doses,
    y: values,
    line: { color: ink("right"), width: 2 },
    marker: { size: doses.map((_, place) => (place === marked ? 13 : 8)), color: ink("right"), line: { width: doses.map((_, place) => (place === marked ? 2.5 : 0)), color: ink("ink") } },
    hovertemplate: "%{x} µM: %{y:.3~g}<extra></extra>",
    cliponaxis: false,
  };
  const shapes = line === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: line, y1: line, line: { color: ink("quiet"), width: 1.5, dash: "dash" } }];
  window.Plotly.react(
    byId(id),
    [trace],
    {
      ...plotLook(),
      dragmode: false,
      margin: { l: 40, r: 14, t: 8, b: 40 },
      shapes,
      xaxis: {
        ...grid,
        type: "log",
        showgrid: false,
        title: { text: "dose, µM", standoff: 6, font: { size: 12 } },
        ...(few ? { tickvals: doses, ticktext: doses.map((dose) => String(Number(dose.toPrecision(3)))) } : { dtick: 1 }),
      },
      yaxis: { ...grid, nticks: 5, range: [from - room, top + room] },
    },
    { ...PLOT_OPTIONS, displayModeBar: false },
  );
}

/** Each dose with its numbers and its cells: the figures once more, for those who read. */
function fillSeries(rows, number, measured, distance) {
  const { dose, length, to_highest: toHighest, map } = data.relations;
  const kind = hasTypical ? "Typical cells" : "Cells, by chance";
  const heads = ["Dose", kind, distance, "Similarity to the highest", ...(measured ? ["mAP"] : [])];
  const figures = (i) => [length[i].toPrecision(3), toHighest[i].toFixed(2).replace("-", "−"), ...(measured ? [map[i] === null ? "–" : map[i].toFixed(2)] : [])];
  const lines = rows.map((i) => {
    const point = data.treatments[i];
    const tiles = typicalOf(i, SERIES_CELLS);
    const picture = tiles.length ? makeCells(tiles, SERIES_CELLS, point.name) : make("span", { class: "quiet" }, "none in this file");
    if (tiles.length) picture.style.width = `${SERIES_CELLS * SERIES_CSS_PX}px`;
    const name = `${Number(dose[i].toPrecision(4))} µM`;
    const head = make("th", { scope: "row" }, i === number ? make("strong", {}, name) : makeWay(point, name));
    return make("tr", {}, head, make("td", { class: "pictured" }, picture), ...figures(i).map((text) => make("td", { class: "number" }, text)));
  });
  const head = make("tr", {}, ...heads.map((text, place) => make("th", { scope: "col", class: place && text !== kind ? "number" : undefined }, text)));
  byId("series").replaceChildren(make("thead", {}, head), make("tbody", {}, ...lines));
  byId("series-scale").replaceChildren(makeScaleBar(SERIES_CSS_PX / data.tiles.px));
}
