// Draws what the page's data hold: the training's course, the map, the cells, and who matched whom.
// Names come from tables that anyone may have filled in: they only ever become text nodes, never HTML, and
// never labels of Plotly, which reads some HTML.

const data = JSON.parse(document.getElementById("report-data").textContent);
const SCORES = { nscb: "another compound, another batch (NSCB)", nsc: "another compound (NSC)" };

/** What is drawn in the colours of the page, and so again when the reader changes between light and dark. */
const coloured = [];

const byId = (id) => document.getElementById(id);

/** Make an element with attributes, and children that are elements or text. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "onclick") element.addEventListener("click", value);
    else if (value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Make an element of a picture. */
function makeSvg(tag, attributes = {}) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** Text that decides its own direction, so that a right-to-left name does not turn its neighbours around. */
const named = (text, attributes = {}) => make("bdi", attributes, text);

const ink = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const compareNames = new Intl.Collator("en", { numeric: true }).compare;

/** A row of buttons of which one is pressed. */
function makeChoice(place, options, chosen, choose) {
  const buttons = Object.entries(options).map(([value, label]) => {
    const press = () => {
      buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.value === value)));
      choose(value);
    };
    return make("button", { type: "button", value, "aria-pressed": String(value === chosen), onclick: press }, label);
  });
  place.append(...buttons);
}
