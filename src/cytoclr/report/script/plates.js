// Plates as they stand: a number of each well, in its place; the same by batch; and what the place explains.

const OPEN_PLATES = 12;
const POINTS_OF_BATCH = 80;
const plates = { measure: data.plates.measures[0], drawn: new Map(), few: new Set(data.plates.few) };

/** Well by number: those with a profile first, then those with cells alone. */
const wellAt = (number) => data.wells[number] ?? data.plates.extra[number - data.wells.length];

function startPlates() {
  const select = byId("plates-measure");
  select.append(...data.plates.measures.map(({ key, name }) => make("option", { value: key }, name)));
  select.addEventListener("change", () => chooseMeasure(select.value));
  makePlateMaps();
  drawPositions();
  chooseMeasure(plates.measure.key);
  coloured.push(drawMeasure);
  // what was not yet on the screen is drawn for paper
  addEventListener("beforeprint", () => plates.drawn.forEach((_, canvas) => drawPlate(canvas)));
}

function chooseMeasure(key) {
  plates.measure = data.plates.measures.find((measure) => measure.key === key);
  byId("plates-measure").value = key;
  drawMeasure();
}

function drawMeasure() {
  const { measure } = plates;
  byId("plates-about").replaceChildren(measure.about);
  const unit = measure.unit && measure.kind !== "count" ? `, ${measure.unit}` : "";
  byId("batches-measure").replaceChildren(named(measure.name), unit);
  drawPlateLegend();
  plates.drawn.forEach((plate, canvas) => plate.isSeen && drawPlate(canvas));
  for (const dot of document.querySelectorAll("#plates-maps [data-beside]")) paintBeside(dot);
  drawBatches();
  for (const row of document.querySelectorAll("#positions [data-measure]")) {
    row.classList.toggle("chosen", row.dataset.measure === measure.key);
  }
}

// ---- numbers in words, and in colours ----

const writeWellDigits = (value, digits = 3) => value.toLocaleString("en", { maximumSignificantDigits: digits }).replace("-", "−");

/** A value as people read it, without its unit. */
function writeWellValue({ kind }, value) {
  if (value === null) return "not known";
  if (kind === "share") return `${writeWellDigits(100 * value)}\u00a0%`;
  if (kind === "count") return value.toLocaleString("en", { maximumFractionDigits: 0 });
  return writeWellDigits(value);
}

const writeWellUnit = (measure, value) =>
  value === null || !measure.unit ? writeWellValue(measure, value) : `${writeWellValue(measure, value)} ${measure.unit}`;

function colourWell(share) {
  const [red, green, blue] = mixViridis(share);
  return { css: `rgb(${red},${green},${blue})`, isLight: 0.3 * red + 0.59 * green + 0.11 * blue > 125 };
}

/** Where a value lies on the colours: all the same is their middle. */
const shareOfScale = ({ low, high }, value) => (high > low ? (value - low) / (high - low) : 0.5);

function drawPlateLegend() {
  const { measure } = plates;
  const marks = [
    [{ value: 0.75, control: true }, "untreated"],
    [{ value: null }, "not known"],
    [{ value: undefined }, "no well"],
  ].map(([well, label]) => {
    const canvas = make("canvas", { class: "plate-mark", "aria-hidden": "true" });
    paintWellMark(canvas, well);
    return make("span", {}, canvas, label);
  });
  const ends = [writeWellUnit(measure, measure.low), writeWellUnit(measure, measure.high)];
  const scale = make("span", { class: "plate-scale" });
  if (measure.low === null || measure.values.every((value) => value === null)) scale.append("not known of any well");
  else if (measure.low === measure.high) scale.append(`${ends[0]} in every well`);
  else {
    const bar = make("span", { class: "plate-bar", "aria-hidden": "true" });
    bar.style.background = `linear-gradient(to right, ${VIRIDIS_STOPS.join(",")})`;
    scale.append(make("span", {}, `≤ ${ends[0]}`), bar, make("span", {}, `≥ ${ends[1]}`));
  }
  const note = make("span", { class: "quiet" }, "One scale for all plates: 2nd to 98th percentile of wells.");
  byId("plates-legend").replaceChildren(scale, make("span", { class: "plate-marks" }, ...marks), note);
}

/** One well as a plate has it, for the legend and for wells beside their plates. */
function paintWellMark(canvas, { value, control }) {
  const ratio = devicePixelRatio || 1;
  canvas.width = canvas.height = 16 * ratio;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  paintWell(context, 0, 0, 16, { share: value, control });
}

/** Share undefined: no well stands there; null: its value is not known. */
function paintWell(context, x, y, size, { share, control }) {
  const gap = size > 9 ? 1 : 0.5;
  if (share === undefined) {
    context.fillStyle = ink("line");
    context.beginPath();
    context.arc(x + size / 2, y + size / 2, Math.max(0.7, size * 0.08), 0, 2 * Math.PI);
    context.fill();
    return;
  }
  const colour = share === null ? null : colourWell(share);
  context.lineWidth = 1;
  if (colour) {
    context.fillStyle = colour.css;
    context.fillRect(x + gap, y + gap, size - 2 * gap, size - 2 * gap);
  }
  // the darkest colours are near to dark paper, so every well has a line around it
  context.strokeStyle = colour ? ink("line") : ink("quiet");
  context.strokeRect(x + gap + 0.5, y + gap + 0.5, size - 2 * gap - 1, size - 2 * gap - 1);
  if (!control) return;
  context.strokeStyle = colour ? (colour.isLight ? "#000000" : "#ffffff") : ink("ink");
  context.lineWidth = Math.max(1, size / 11);
  context.beginPath();
  context.arc(x + size / 2, y + size / 2, size * 0.24, 0, 2 * Math.PI);
  context.stroke();
}

// ---- plates ----

/** Frames of all plates, by batch; a plate is drawn when it comes onto the screen. */
function makePlateMaps() {
  const seen = new IntersectionObserver(showSeenPlates, { rootMargin: "300px" });
  const sized = new ResizeObserver((entries) => entries.forEach(({ target }) => plates.drawn.get(target).isSeen && drawPlate(target)));
  let before = 0;
  for (const [batch, of] of groupPlates()) {
    const grid = make("div", { class: "plate-grid" });
    for (const plate of of) grid.append(makePlate(plate, seen, sized));
    const count = of.length === 1 ? "1 plate" : `${of.length} plates`;
    const part = make("details", { class: "batch" }, make("summary", {}, named(batch), make("span", { class: "quiet" }, ` ${count}`)), grid);
    part.open = before < OPEN_PLATES;
    before += of.length;
    byId("plates-maps").append(part);
  }
  byId("plates-maps").append(make("div", { id: "plate-tip", role: "status", "aria-live": "polite", hidden: "" }));
  addEventListener("scroll", followWell, { passive: true });
}

function groupPlates() {
  const groups = new Map();
  for (const plate of data.plates.plates) groups.set(plate.batch, [...(groups.get(plate.batch) ?? []), plate]);
  return groups;
}

function showSeenPlates(entries) {
  for (const { target, isIntersecting } of entries) {
    const plate = plates.drawn.get(target);
    plate.isSeen = isIntersecting;
    if (isIntersecting) drawPlate(target);
  }
}

function makePlate(plate, seen, sized) {
  const parts = [make("figcaption", {}, named(plate.name))];
  if (plate.wells.length) {
    const canvas = make("canvas", { class: "plate", tabindex: 0, role: "application", "aria-roledescription": "plate map" });
    const label = `Plate ${plate.name}, ${plate.rows * plate.columns} positions, ${plate.wells.length} wells. Arrows go among wells, Enter opens one.`;
    canvas.setAttribute("aria-label", label);
    // its shape is known before it is drawn, so nothing moves
    const margin = marginOf(plate);
    canvas.style.aspectRatio = `${plate.columns + margin} / ${plate.rows + margin}`;
    const wellAtPlace = new Map(plate.places.map((place, i) => [place, plate.wells[i]]));
    plates.drawn.set(canvas, { ...plate, wellAtPlace, at: plate.places[0], isSeen: false, isFocused: false });
    seen.observe(canvas);
    sized.observe(canvas);
    listenToPlate(canvas);
    parts.push(canvas);
  }
  if (plate.beside.length) parts.push(makeBeside(plate));
  const shape = { 6: "sparsest", 1536: "densest" }[plate.rows * plate.columns] ?? "";
  return make("figure", { class: `plate-figure ${shape}` }, ...parts);
}

/** Wells whose names are no position of a plate, or whose position another well has: a list, not dropped. */
function makeBeside({ beside }) {
  const told = beside.length === 1 ? "1 well without a position of its own" : `${beside.length} wells without a position of their own`;
  const list = make("div", { class: "beside" });
  const part = make("details", {}, make("summary", {}, told), list);
  const fill = () => {
    if (list.childElementCount) return;
    for (const number of beside) {
      const dot = make("canvas", { class: "plate-mark", "data-beside": number, "aria-hidden": "true" });
      const text = make("span", { class: "quiet" });
      const button = make("button", { type: "button", onclick: () => openWell(number) }, dot, named(wellAt(number).well), text);
      list.append(button);
      paintBeside(dot);
    }
  };
  part.addEventListener("toggle", () => part.open && fill());
  part.open = beside.length <= 6;
  if (part.open) fill();
  return part;
}

function paintBeside(dot) {
  const number = Number(dot.dataset.beside);
  const value = plates.measure.values[number];
  paintWellMark(dot, { value: value === null ? null : shareOfScale(plates.measure, value), control: wellAt(number).control });
  dot.parentElement.lastElementChild.textContent = writeWellUnit(plates.measure, value);
}

/** Room for the names of rows and columns, in widths of a well; a tenth of a well is left at the other ends. */
const marginOf = (plate) => (plate.columns > 6 ? 1.4 : 0.6);

/** Size of a well and where the first one is, in CSS px. */
function measurePlate(canvas) {
  const plate = plates.drawn.get(canvas);
  const margin = marginOf(plate);
  const size = Math.min(canvas.clientWidth / (plate.columns + margin), canvas.clientHeight / (plate.rows + margin));
  return { size, left: (margin - 0.1) * size, top: (margin - 0.1) * size };
}

function drawPlate(canvas) {
  const plate = plates.drawn.get(canvas);
  const { size, left, top } = measurePlate(canvas);
  if (size <= 0) return;
  const ratio = devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  drawPlateNames(context, plate, size, left, top);
  const { measure } = plates;
  for (let place = 0; place < plate.rows * plate.columns; place += 1) {
    const number = plate.wellAtPlace.get(place);
    const value = number === undefined ? undefined : measure.values[number];
    const share = value === undefined || value === null ? value : shareOfScale(measure, value);
    const [row, column] = [Math.floor(place / plate.columns), place % plate.columns];
    paintWell(context, left + column * size, top + row * size, size, { share, control: number !== undefined && wellAt(number).control });
  }
  if (!plate.isFocused) return;
  const [row, column] = [Math.floor(plate.at / plate.columns), plate.at % plate.columns];
  for (const [colour, width, grow] of [[ink("paper"), 4, 0.5], [ink("accent"), 2.5, 1]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.strokeRect(left + column * size - grow, top + row * size - grow, size + 2 * grow, size + 2 * grow);
  }
}

const namePlateRow = (row) => (row < 26 ? String.fromCharCode(65 + row) : `A${String.fromCharCode(39 + row)}`);

/** Letters of rows and numbers of columns: as many as have room. */
function drawPlateNames(context, plate, size, left, top) {
  const font = Math.max(9, Math.min(12, size * 0.55));
  context.font = `${font}px ${getComputedStyle(document.body).fontFamily}`;
  context.fillStyle = ink("quiet");
  context.textBaseline = "middle";
  context.textAlign = "center";
  const every = [1, 2, 4, 8].find((step) => step * size >= 1.7 * font) ?? 8;
  for (let column = 0; column < plate.columns; column += every) {
    context.fillText(String(column + 1), left + (column + 0.5) * size, top - Math.max(Math.min(0.55 * size, 12), font * 0.65));
  }
  const everyRow = [1, 2, 4, 8].find((step) => step * size >= 1.15 * font) ?? 8;
  for (let row = 0; row < plate.rows; row += everyRow) {
    context.fillText(namePlateRow(row), left - Math.max(Math.min(0.55 * size, 12), font * 0.65), top + (row + 0.5) * size);
  }
}

// ---- going among wells ----

const WELL_ARROWS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function listenToPlate(canvas) {
  const plate = plates.drawn.get(canvas);
  canvas.addEventListener("pointermove", (event) => {
    const place = findWellPlace(canvas, event);
    const number = plate.wellAtPlace.get(place);
    canvas.style.cursor = number === undefined ? "default" : "pointer";
    if (number === undefined) hideWellTip();
    else showWellTip(canvas, place, number);
  });
  canvas.addEventListener("pointerleave", hideWellTip);
  canvas.addEventListener("click", (event) => {
    const place = findWellPlace(canvas, event);
    const number = plate.wellAtPlace.get(place);
    if (number === undefined) return;
    plate.at = place;
    hideWellTip();
    openWell(number);
  });
  canvas.addEventListener("focus", () => {
    // a press of the mouse needs no frame
    plate.isFocused = canvas.matches(":focus-visible");
    drawPlate(canvas);
    if (plate.isFocused) showWellTip(canvas, plate.at, plate.wellAtPlace.get(plate.at));
  });
  canvas.addEventListener("blur", () => {
    plate.isFocused = false;
    drawPlate(canvas);
    hideWellTip();
  });
  canvas.addEventListener("keydown", (event) => pressPlateKey(canvas, event));
}

function pressPlateKey(canvas, event) {
  const plate = plates.drawn.get(canvas);
  if (event.key === "Escape") return hideWellTip();
  if (event.altKey || event.ctrlKey || event.metaKey) return undefined;
  if (event.key === "Enter" || event.key === " ") {
    event.preventDefault();
    return openWell(plate.wellAtPlace.get(plate.at));
  }
  const next = findNextWell(plate, event.key);
  if (next === null) return undefined;
  event.preventDefault();
  plate.at = next;
  plate.isFocused = true;
  drawPlate(canvas);
  showWellTip(canvas, next, plate.wellAtPlace.get(next));
  return undefined;
}

/** The next well in the key's direction, past positions without one; where there is none, the same. Null: another key. */
function findNextWell(plate, key) {
  const inRow = plate.places.filter((place) => Math.floor(place / plate.columns) === Math.floor(plate.at / plate.columns));
  if (key === "Home") return inRow[0];
  if (key === "End") return inRow.at(-1);
  const step = WELL_ARROWS[key];
  if (!step) return null;
  let [row, column] = [Math.floor(plate.at / plate.columns), plate.at % plate.columns];
  for (;;) {
    [row, column] = [row + step[0], column + step[1]];
    if (row < 0 || column < 0 || row >= plate.rows || column >= plate.columns) return findWellAside(plate, step);
    if (plate.wellAtPlace.has(row * plate.columns + column)) return row * plate.columns + column;
  }
}

/** Where nothing stands straight ahead: the nearest well of the next row or column that has any. */
function findWellAside(plate, [down, right]) {
  const [row, column] = [Math.floor(plate.at / plate.columns), plate.at % plate.columns];
  const ahead = plate.places
    .map((place) => ({ place, along: down * (Math.floor(place / plate.columns) - row) + right * ((place % plate.columns) - column) }))
    .filter(({ along }) => along > 0);
  const aside = (place) => (down ? Math.abs((place % plate.columns) - column) : Math.abs(Math.floor(place / plate.columns) - row));
  ahead.sort((one, other) => one.along - other.along || aside(one.place) - aside(other.place));
  return ahead[0]?.place ?? plate.at;
}

function findWellPlace(canvas, event) {
  const plate = plates.drawn.get(canvas);
  const { size, left, top } = measurePlate(canvas);
  const [column, row] = [Math.floor((event.offsetX - left) / size), Math.floor((event.offsetY - top) / size)];
  return row < 0 || column < 0 || row >= plate.rows || column >= plate.columns ? -1 : row * plate.columns + column;
}

function showWellTip(canvas, place, number) {
  const well = wellAt(number);
  const tip = byId("plate-tip");
  const value = writeWellUnit(plates.measure, plates.measure.values[number]);
  tip.replaceChildren(
    make("strong", {}, named(well.name)),
    make("span", {}, named(well.well), well.control ? " · untreated" : "", " · ", named(plates.measure.name), ": ", value),
  );
  tip.hidden = false;
  const { size, left, top } = measurePlate(canvas);
  const { columns } = plates.drawn.get(canvas);
  const frame = canvas.getBoundingClientRect();
  const x = frame.left + left + ((place % columns) + 0.5) * size;
  const y = frame.top + top + Math.floor(place / columns) * size;
  const wide = document.documentElement.clientWidth;
  tip.style.left = `${Math.max(8, Math.min(wide - tip.offsetWidth - 8, x - tip.offsetWidth / 2))}px`;
  // above the well; below it where there is no room under the page's head
  const above = y - tip.offsetHeight - 8;
  tip.style.top = `${above > 60 ? above : y + size + 8}px`;
}

/** The page moved: what the keyboard is at is still told, what the mouse was at is not. */
function followWell() {
  const plate = plates.drawn.get(document.activeElement);
  if (plate?.isFocused && !byId("plate-tip").hidden) showWellTip(document.activeElement, plate.at, plate.wellAtPlace.get(plate.at));
  else hideWellTip();
}

function hideWellTip() {
  byId("plate-tip").hidden = true;
}

/** A well's cells, and all that is measured of it. */
function openWell(number) {
  const well = wellAt(number);
  const kind = well.control ? "untreated" : well.mechanism;
  const place = [named(well.plate), " · well ", named(well.well), ...(kind ? [" · ", named(kind)] : [])];
  const told = data.plates.measures.map((measure) =>
    make("div", {}, make("dt", {}, named(measure.name)), make("dd", {}, writeWellUnit(measure, measure.values[number]))),
  );
  const about = [...place, plates.few.has(number) ? " · fewer cells than were asked for: in no score" : "", make("dl", { class: "well-told" }, ...told)];
  const count = data.plates.measures[0].values[number];
  const note = `${well.cells.length.toLocaleString("en")} of ${writeWellValue({ kind: "count" }, count)} cells, drawn by chance`;
  openGallery(well.name, about, [{ name: well.well, note: well.cells.length ? note : "", tiles: well.cells }]);
}

// ---- batches ----

const BOX_SHARES = [0.05, 0.25, 0.5, 0.75, 0.95];

function quantileOfWells(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  return sorted[below] + (place - below) * ((sorted[below + 1] ?? sorted[below]) - sorted[below]);
}

/** For each batch, the untreated wells and the others: boxes, and the wells themselves where they are few. */
function drawBatches() {
  const { measure } = plates;
  const groups = new Map();
  for (const plate of data.plates.plates) {
    if (!groups.has(plate.batch)) groups.set(plate.batch, { controls: [], others: [] });
    for (const number of [...plate.wells, ...plate.beside]) {
      const value = measure.values[number];
      if (value !== null) groups.get(plate.batch)[wellAt(number).control ? "controls" : "others"].push(value);
    }
  }
  const known = measure.values.filter((value) => value !== null).sort((one, other) => one - other);
  const place = byId("batches");
  if (!known.length) {
    place.replaceChildren(make("p", { class: "quiet" }, "Not known of any well."));
    return;
  }
  // as on the plates, a few wells far out do not press the others together
  const [first, last] = [quantileOfWells(known, 0.005), quantileOfWells(known, 0.995)];
  const spread = last - first || Math.abs(first) || 1;
  const [low, high] = [first - 0.04 * spread, last + 0.04 * spread];
  const ticks = chooseBatchTicks(low, high);
  const all = [...groups.values()].flatMap(({ controls }) => controls).sort((one, other) => one - other);
  const middle = all.length ? quantileOfWells(all, 0.5) : null;
  const lines = [...groups].map(([batch, of]) => {
    const parts = [];
    if (of.controls.length) parts.push(drawBatchBox(of.controls, true, low, high, ticks, middle, batch));
    if (of.others.length) parts.push(drawBatchBox(of.others, false, low, high, ticks, middle, batch));
    if (!parts.length) parts.push(make("p", { class: "quiet" }, "not known"));
    return make("div", { class: "batch-line" }, make("p", {}, named(batch)), make("div", {}, ...parts));
  });
  place.replaceChildren(...lines, make("div", { class: "batch-line" }, make("p", {}), drawBatchAxis(low, high, ticks)));
  const far = known.filter((value) => value < low || value > high).length;
  byId("batches-key").replaceChildren(
    "Blue, above: untreated wells; orange, below: all others. A box holds the middle half of the wells, with their median; its line the middle 90 %. ",
    middle === null ? "" : "The dotted line is the median of all untreated wells. ",
    far ? `${far.toLocaleString("en")} well${far > 1 ? "s lie" : " lies"} farther out than the scale and ${far > 1 ? "are" : "is"} drawn at its end.` : "",
  );
}

/** Round numbers, some three to six, between two. */
function chooseBatchTicks(low, high) {
  const rough = (high - low) / 6;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((width) => width >= rough);
  const found = [];
  for (let i = Math.ceil(low / step); i * step <= high; i += 1) found.push(Number((i * step).toPrecision(12)));
  return found;
}

const placeOnBatchAxis = (value, low, high) => `${(100 * Math.min(1, Math.max(0, (value - low) / (high - low)))).toFixed(3)}%`;

function drawBatchBox(values, isControl, low, high, ticks, middle, batch) {
  const sorted = [...values].sort((one, other) => one - other);
  const marks = BOX_SHARES.map((share) => quantileOfWells(sorted, share));
  const at = (value) => placeOnBatchAxis(value, low, high);
  const kind = isControl ? "untreated" : "other";
  const label = `${batch}, ${values.length.toLocaleString("en")} ${kind} wells: median ${writeWellUnit(plates.measure, marks[2])}`;
  const svg = makeSvg("svg", { class: isControl ? "box controls-box" : "box", role: "img", "aria-label": label, width: "100%", height: 26 });
  for (const tick of ticks) svg.append(makeSvg("line", { class: "box-grid", x1: at(tick), x2: at(tick), y1: 0, y2: 26 }));
  if (middle !== null) svg.append(makeSvg("line", { class: "box-middle", x1: at(middle), x2: at(middle), y1: 0, y2: 26 }));
  if (sorted.length <= POINTS_OF_BATCH) {
    // apart from each other in height by a rule, not by chance: the same at every drawing
    sorted.forEach((value, i) => svg.append(makeSvg("circle", { class: "box-well", cx: at(value), cy: 4 + ((i * 7) % 19), r: 2.4 })));
  }
  if (sorted.length > 4) {
    svg.append(
      makeSvg("line", { class: "box-line", x1: at(marks[0]), x2: at(marks[4]), y1: 13, y2: 13 }),
      makeSvg("rect", { class: "box-half", x: at(marks[1]), width: `${Math.max(0.2, parseFloat(at(marks[3])) - parseFloat(at(marks[1])))}%`, y: 6, height: 14 }),
      makeSvg("line", { class: "box-median", x1: at(marks[2]), x2: at(marks[2]), y1: 4, y2: 22 }),
    );
  }
  const count = make("span", { class: "box-count" }, values.length.toLocaleString("en"));
  return make("div", { class: "box-row" }, svg, count);
}

function drawBatchAxis(low, high, ticks) {
  const svg = makeSvg("svg", { class: "box-axis", width: "100%", height: 20, "aria-hidden": "true" });
  for (const tick of ticks) {
    const text = makeSvg("text", { x: placeOnBatchAxis(tick, low, high), y: 14, "text-anchor": "middle" });
    text.append(plates.measure.kind === "share" ? `${writeWellDigits(100 * tick)}\u00a0%` : writeWellDigits(tick));
    svg.append(text);
  }
  return make("div", { class: "box-row" }, svg, make("span", { class: "box-count" }, "wells"));
}

// ---- position ----

const POSITIONS = ["Rows", "Columns", "Edge"];

function drawPositions() {
  const { wells, notes, rows, tests, permutations } = data.plates.positions;
  byId("positions-notes").replaceChildren(...notes.map((note) => make("li", {}, note)));
  byId("positions-notes").hidden = !notes.length;
  const head = ["Measure", ...POSITIONS].map((name, i) => make("th", { scope: "col", class: i ? "number" : undefined }, name));
  const lines = rows.map(({ measure, effects, words }) => {
    const { name } = data.plates.measures.find(({ key }) => key === measure);
    const press = () => {
      chooseMeasure(measure);
      byId("plates-title").scrollIntoView();
    };
    const show = make("button", { type: "button", class: "link", onclick: press, "aria-label": `Show ${name} on the plates` }, named(name));
    const told = words.length ? make("td", { class: "told-words" }, ...words.map((sentence) => make("p", {}, sentence))) : make("td", { class: "quiet told-words" }, "nothing that stands out");
    return make("tr", { "data-measure": measure }, make("th", { scope: "row" }, show), ...effects.map((effect, i) => makePositionEffect(effect, POSITIONS[i])), told);
  });
  byId("positions").replaceChildren(
    make("thead", {}, make("tr", {}, ...head, make("th", { scope: "col" }, "In words"))),
    make("tbody", {}, ...lines),
  );
  const chance = tests === 1 ? "1 test" : `${tests} tests`;
  byId("positions-key").replaceChildren(
    `${wells} Share of the variance that is explained (eta squared), once the mean of every plate is taken off; grey: by chance, the mean of `,
    `${permutations.toLocaleString("en")} permutations of wells within their plates, which p comes from too. Edge: the outermost rows and columns `,
    `against all inside. Bold is what stays below 0.05 when all ${chance} of the table are counted (Holm).`,
  );
}

function makePositionEffect({ share, chance, p, marked, missing }, of) {
  if (missing) return make("td", { class: "number quiet", "data-label": of }, missing);
  const text = `${writeWellDigits(100 * share, 2)}\u00a0%`;
  return make(
    "td",
    { class: "number", "data-label": of },
    marked ? make("strong", {}, text) : text,
    make("span", { class: "by-chance" }, ` ${writeWellDigits(100 * chance, 2)}\u00a0%`),
    make("span", { class: "by-chance p" }, `p = ${writeWellDigits(p, 2)}`),
  );
}
