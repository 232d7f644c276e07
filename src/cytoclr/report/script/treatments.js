// Who found whom: mechanisms against mechanisms, and each treatment with its nearest neighbour.

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
