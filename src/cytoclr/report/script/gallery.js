// Cells: the typical, the untypical and some by chance, of a treatment or of all of a mechanism, the untreated beside.

const GALLERIES_AT_ONCE = 8;
const GALLERY_ACROSS = 4;
const GALLERY_CELLS = 8;
const galleries = { of: "treatment", number: 0, mechanism: "", px: 64, limit: GALLERIES_AT_ONCE, across: 0 };

function startGalleries() {
  byId("cells-note").textContent = sayTypical();
  if (!data.treatments.length) {
    byId("cells").querySelectorAll(".controls").forEach((controls) => (controls.hidden = true));
    byId("cells-shown").replaceChildren(make("p", {}, "No treatment has a profile, so none is shown."));
    return;
  }
  const mechanisms = [...new Set(data.treatments.flatMap(({ mechanism }) => mechanism ?? []))].sort(compareNames);
  galleries.number = inOrder[0];
  galleries.mechanism = mechanisms[0];
  const show = makeFinder(byId("cells-finder"), (number) => {
    galleries.number = number;
    show(number);
    drawGalleries();
  });
  show(galleries.number);
  if (mechanisms.length) {
    makeChoice(byId("cells-of"), { treatment: "One treatment", mechanism: "One mechanism" }, galleries.of, (of) => {
      galleries.of = of;
      galleries.limit = GALLERIES_AT_ONCE;
      drawGalleries();
    });
  } else byId("cells-of").hidden = true;
  const select = byId("cells-mechanism").querySelector("select");
  select.append(...mechanisms.map((name) => make("option", { value: name }, name)));
  select.addEventListener("change", () => {
    galleries.mechanism = select.value;
    galleries.limit = GALLERIES_AT_ONCE;
    drawGalleries();
  });
  makeChoice(byId("cells-size"), { 40: "small", 64: "middle", 128: "large" }, "64", (px) => {
    galleries.px = Number(px);
    drawGalleries();
  });
  byId("cells-more").addEventListener("click", () => {
    const before = galleries.limit;
    galleries.limit += GALLERIES_AT_ONCE;
    drawGalleries();
    byId("cells-shown").children[before]?.querySelector("button")?.focus();
  });
  new ResizeObserver(() => galleries.across !== countAcross() && drawGalleries()).observe(byId("cells-shown"));
  drawGalleries();
}

function sayTypical() {
  const contrast = "Contrast is set once for a plate and channel, and is common to all cells here, so brightness can be compared.";
  return hasTypical
    ? "How typical a cell is, is measured by the cosine between its embedding and the mean of all cells of its treatment, once each plate is " +
        `centred on its control cells and features are brought to one scale. ${contrast}`
    : `Without embeddings of single cells nothing tells the typical from the untypical: all cells here are drawn by chance. ${contrast}`;
}

/** Cells in a row: fewer where the page is narrow. */
const countAcross = () => Math.max(1, Math.min(GALLERY_ACROSS, Math.floor(byId("cells-shown").clientWidth / galleries.px)));

function drawGalleries() {
  const byMechanism = galleries.of === "mechanism";
  byId("cells-finder").hidden = byMechanism;
  byId("cells-mechanism").hidden = !byMechanism;
  const found = byMechanism ? inOrder.filter((number) => data.treatments[number].mechanism === galleries.mechanism) : [galleries.number];
  galleries.across = countAcross();
  const left = found.length - galleries.limit;
  byId("cells-more").hidden = left <= 0;
  byId("cells-more").textContent = `Show ${Math.min(left, GALLERIES_AT_ONCE)} more of ${left}`;
  byId("cells-shown").replaceChildren(...found.slice(0, galleries.limit).map(makeTreatmentCells));
  byId("cells-scale").replaceChildren(makeScaleBar(galleries.px / data.tiles.px));
}

function makeTreatmentCells(number) {
  const point = data.treatments[number];
  const { tiles, note } = untreatedOf(number, GALLERY_CELLS);
  const ranked = [
    { name: "Most typical", note: "best first", tiles: point.typical },
    { name: "Least typical", note: "farthest first", tiles: point.untypical },
  ];
  const groups = [
    ...(hasTypical ? ranked : []),
    { name: "By chance", note: "of all its wells", tiles: point.cells },
    { name: "Untreated", note, tiles },
  ].map((group) => ({ ...group, tiles: group.tiles.slice(0, GALLERY_CELLS) }));
  const figures = groups.map((group) => makeCellFigure(group, galleries.across, galleries.px));
  const about = make("span", { class: "quiet" }, named(GROUPINGS.mechanism.of(point)), ` · ${data.relations.cells[number].toLocaleString("en")} cells`);
  return make("article", { class: "card treatment-cells" }, make("h3", {}, makeWay(point), " ", about), make("div", { class: "abreast" }, ...figures));
}
