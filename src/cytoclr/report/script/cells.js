// Cells: grey tiles of each channel, lit in its colour and laid over each other, so that channels can be switched.

const TILES_ACROSS = 32;
const TILES_A_SHEET = TILES_ACROSS * 32;
const WHITE = "#ffffff";
const channels = { shown: new Set(data.tiles.channels.map((_, number) => number)) };

async function decode(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  return createImageBitmap(new Blob([bytes], { type: "image/webp" }));
}

/** A grey picture lit in one colour. */
function tint(picture, colour) {
  const canvas = make("canvas", { width: picture.width, height: picture.height });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  context.globalCompositeOperation = "multiply";
  context.fillStyle = colour;
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}

const sheets = new Map();

/** A sheet's channels, each grey and in its colour; decoded when first needed. */
function openSheet(number) {
  if (!sheets.has(number)) {
    const lit = data.tiles.sheets[number].map(async (text, channel) => {
      const grey = await decode(text);
      const { hue } = data.tiles.channels[channel];
      return { grey, coloured: hue === WHITE ? grey : tint(grey, hue) };
    });
    sheets.set(number, Promise.all(lit));
  }
  return sheets.get(number);
}

const painted = new WeakMap();

/** A canvas of these tiles, so many in a row; it follows the channels that are switched on. */
function makeCells(tiles, across, label) {
  const px = data.tiles.px;
  const canvas = make("canvas", { class: "cells", role: "img", "aria-label": `Cells of ${label}` });
  canvas.width = px * across;
  canvas.height = px * Math.max(1, Math.ceil(tiles.length / across));
  painted.set(canvas, { tiles, across });
  paintCells(canvas);
  return canvas;
}

async function paintCells(canvas) {
  const { tiles, across } = painted.get(canvas);
  const px = data.tiles.px;
  const numbers = [...new Set(tiles.map((tile) => Math.floor(tile / TILES_A_SHEET)))];
  const opened = new Map(await Promise.all(numbers.map(async (number) => [number, await openSheet(number)])));
  const context = canvas.getContext("2d");
  context.globalCompositeOperation = "source-over";
  context.clearRect(0, 0, canvas.width, canvas.height);
  // the channels add up, as light does; one alone is grey, in which the eye sees most
  const kind = channels.shown.size === 1 ? "grey" : "coloured";
  for (const [place, tile] of tiles.entries()) {
    const number = tile % TILES_A_SHEET;
    const from = [px * (number % TILES_ACROSS), px * Math.floor(number / TILES_ACROSS)];
    const to = [px * (place % across), px * Math.floor(place / across)];
    context.globalCompositeOperation = "source-over";
    context.fillStyle = "#000000";
    context.fillRect(...to, px, px);
    context.globalCompositeOperation = "lighter";
    for (const channel of channels.shown) {
      const picture = opened.get(Math.floor(tile / TILES_A_SHEET))[channel][kind];
      context.drawImage(picture, ...from, px, px, ...to, px, px);
    }
  }
}

// ---- which channels are on: the same everywhere on the page ----

/** Buttons that switch channels; the last one that is on stays on. */
function fillChannelBar(bar) {
  if (data.tiles.channels.length < 2) return;
  const buttons = data.tiles.channels.map(({ name, hue }, number) => {
    const press = () => {
      if (channels.shown.has(number) && channels.shown.size > 1) channels.shown.delete(number);
      else channels.shown.add(number);
      showChannels();
    };
    return make("button", { type: "button", "data-channel": number, onclick: press }, makeDot(hue), named(name));
  });
  const all = () => {
    data.tiles.channels.forEach((_, number) => channels.shown.add(number));
    showChannels();
  };
  bar.replaceChildren(...buttons, make("button", { type: "button", class: "all", onclick: all }, "all"));
}

function makeDot(colour) {
  const svg = makeSvg("svg", { width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": true });
  svg.append(makeSvg("circle", { cx: 6, cy: 6, r: 5, fill: colour }));
  return svg;
}

function showChannels() {
  for (const button of document.querySelectorAll("[data-channel]")) {
    button.setAttribute("aria-pressed", String(channels.shown.has(Number(button.dataset.channel))));
  }
  for (const canvas of document.querySelectorAll("canvas.cells")) paintCells(canvas);
}

/** A bar as long as a round number of µm, where the size of a pixel is known; `scale`: CSS px for a px of a tile. */
function makeScaleBar(scale) {
  if (!data.tiles.um_a_px) return "";
  const longest = (data.tiles.px / 2) * data.tiles.um_a_px;
  const length = [1, 2, 5, 10, 20, 50, 100, 200].findLast((um) => um <= longest) ?? 1;
  const bar = make("span", { class: "bar" });
  bar.style.width = `${(length / data.tiles.um_a_px) * scale}px`;
  return make("p", { class: "scale-bar" }, bar, `${length} µm`);
}

// ---- the gallery: more cells, larger ----

const gallery = { shown: null, zoom: 2 };

/**
 * Open a window of cells: groups of `{ name, note, tiles, of }`, all drawn with one contrast. `of`, as
 * `{ level: "wells", number }`, tells whose cells they are: a page that is served shows all of them.
 */
function openGallery(title, about, groups) {
  gallery.shown = { title, about, groups };
  drawGallery();
  if (!byId("gallery").open) byId("gallery").showModal();
}

function drawGallery() {
  const { title, about, groups } = gallery.shown;
  byId("gallery-title").replaceChildren(named(title));
  byId("gallery-about").replaceChildren(...about);
  const width = Math.min(innerWidth * 0.94, 1180) - 50;
  const across = Math.max(1, Math.floor(width / (data.tiles.px * gallery.zoom)));
  const parts = groups.map((group) => {
    const { name, note, tiles, larger = 1 } = group;
    const few = Math.min(Math.max(1, Math.floor(across / larger)), Math.max(1, tiles.length));
    const picture = tiles.length ? makeCells(tiles, few, name) : make("p", { class: "quiet" }, "No cells of it are in this file.");
    if (tiles.length) picture.style.width = `${few * data.tiles.px * gallery.zoom * larger}px`;
    const caption = make("figcaption", {}, named(name), " ", make("span", { class: "quiet" }, note ?? ""));
    return make("figure", {}, caption, picture, data.live && group.of ? makeMore(group) : "");
  });
  byId("gallery-cells").replaceChildren(...parts, makeScaleBar(gallery.zoom));
}

const FETCHED = 64;

/** A button that asks the server for a group's cells, one page after the other. */
function makeMore(group) {
  if (group.fetched !== undefined && group.fetched >= group.total) return "";
  const ask = async (event) => {
    event.target.disabled = true;
    const begin = group.fetched ?? 0;
    const answer = await fetch(`cells/${group.of.level}/${group.of.number}?begin=${begin}&count=${FETCHED}`);
    const { total, count, sheets: more } = await answer.json();
    const first = data.tiles.sheets.length * TILES_A_SHEET;
    data.tiles.sheets.push(...more);
    const tiles = Array.from({ length: count }, (_, number) => first + number);
    // the first page takes the place of those that were drawn by chance
    group.tiles = begin ? [...group.tiles, ...tiles] : tiles;
    Object.assign(group, { fetched: begin + count, total, note: `${begin + count} of ${total} cells` });
    drawGallery();
  };
  return make("button", { type: "button", class: "more", onclick: ask }, group.fetched ? "More cells" : "All cells");
}

function startCells() {
  for (const bar of document.querySelectorAll(".channels")) fillChannelBar(bar);
  showChannels();
  const zooms = { 1: "small", 2: "middle", 4: "large" };
  makeChoice(byId("gallery-zoom"), zooms, "2", (zoom) => {
    gallery.zoom = Number(zoom);
    drawGallery();
  });
  byId("gallery-close").addEventListener("click", () => byId("gallery").close());
  // a press beside the window closes it, as Escape does
  byId("gallery").addEventListener("click", (event) => event.target === byId("gallery") && byId("gallery").close());
}
