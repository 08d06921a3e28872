// Elements and small pictures: probabilities, thumbnails, heat maps, scores. All of them can be read as text too.

/** Create an element; attributes beginning with "on" are listeners, children texts or elements. Never parses HTML. */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Pass the focus on from what is about to be hidden or disabled, if it is there. */
export function passFocus(from, to) {
  if (from.contains(document.activeElement)) to.focus();
}

/** Format a probability; only an exact 1 or 0 is shown as 100 % or 0 %. */
export function percent(value) {
  if (value > 0.999 && value < 1) return "> 99.9 %";
  if (value < 0.001 && value > 0) return "< 0.1 %";
  return `${(100 * value).toFixed(1)} %`;
}

/** Format a score, like "3 of 10". */
export const share = ({ right, of }) => `${right} of ${of}`;

/**
 * Bars of probabilities in `list`, an <ol>; its rows are used again, so that bars move instead of jumping.
 *
 * labels: names; probabilities: as many numbers, or null for none.
 */
export function bars(list, labels, probabilities) {
  list.style.setProperty("--name", `min(40%, ${Math.max(1.5, 0.6 * Math.max(...labels.map((label) => label.length)))}rem)`);
  if (list.children.length !== labels.length) {
    const row = () => element("li", {}, element("b"), element("span", { class: "track" }, element("i")), element("data"));
    list.replaceChildren(...labels.map(row));
  }
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  labels.forEach((label, i) => {
    const [name, track, number] = list.children[i].children;
    const value = probabilities ? probabilities[i] : 0;
    name.textContent = label;
    track.firstChild.style.width = `${100 * value}%`;
    number.value = String(value);
    number.textContent = probabilities ? percent(value) : "";
    list.children[i].classList.toggle("best", i === best);
  });
}

/** An image as a picture of its own pixels, ink bright, as the network sees it: one plane of height × width numbers, or three. */
export function thumbnail(pixels, [height, width], name) {
  const canvas = element("canvas", { width, height, class: "sample", role: "img", "aria-label": name });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const size = height * width;
  const [red, green, blue] = pixels.length === 3 * size ? [0, size, 2 * size] : [0, 0, 0];
  for (let i = 0; i < size; i++) image.data.set([255 * pixels[red + i], 255 * pixels[green + i], 255 * pixels[blue + i], 255], 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

/**
 * Which templates each layer uses: rows are templates, columns layers, the shade is the share.
 *
 * Numbers are as `isoform figure` has them: layers from 1, templates from 0. layers: one list of K shares per layer; order: templates from top to bottom; against: another network's layers: what differs by more than 0.02 is marked;
 * shared: numbers of the layers that are the same everywhere.
 */
export function heatMap(title, layers, { order, against = null, shared = [] }) {
  const cell = (share, differs) => {
    const text = element("span", { class: "hidden" }, share > 0.0005 ? `${Math.round(100 * share)} %` : "");
    const made = element("td", { class: differs ? "differs" : null, "data-share": share, title: percent(share) }, text);
    made.style.setProperty("--share", share);
    return made;
  };
  const rows = order.map((k) =>
    element("tr", {}, element("th", { scope: "row" }, String(k)), ...layers.map((row, l) => cell(row[k], against && Math.abs(row[k] - against[l][k]) > 0.02))),
  );
  const head = element("tr", {}, element("td"), ...layers.map((_, l) => element("th", { scope: "col", class: shared.includes(l) ? "shared" : null }, String(l + 1))));
  return element("table", { class: "heat" }, element("caption", {}, title), element("tbody", {}, ...rows), element("tfoot", {}, head));
}

/** Two scores, one above the other: before and after. */
export function scores(title, before, after) {
  const row = (name, score) => {
    const bar = element("i");
    bar.style.width = `${score && score.of ? (100 * score.right) / score.of : 0}%`;
    return element("li", { class: name }, element("b", {}, name), element("span", { class: "track" }, bar), element("data", {}, score ? share(score) : "…"));
  };
  return element("figure", { class: "scores" }, element("figcaption", {}, title), element("ol", {}, row("before", before), row("after", after)));
}
