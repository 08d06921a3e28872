// Template usage of each layer: of the network that answers, compared with its base, and of every task's base signature.

import { templates } from "./api.js";
import { element, heatMap, percent } from "./charts.js";
import { attempt, latest } from "./state.js";

/** Show heat maps in `place`, an element with .mixtures and .summary. Sets `labels` of the network that answers. */
export function showLayers(place, state) {
  const [maps, summary] = [".mixtures", ".summary"].map((name) => place.querySelector(name));
  const once = latest();
  const bases = new Map();

  state.on(["task", "user", "version", "exists"], () => attempt("layers", () => once(show)));

  async function learnOf(name) {
    if (!bases.has(name)) bases.set(name, await templates(name, null));
  }

  async function show(_, still) {
    const [task, user, names] = ["task", "user", "tasks"].map((name) => state.get(name));
    await learnOf(task);
    const own = user && state.get("exists") ? await templates(task, user) : null;
    if (!still()) return;
    const { labels } = own ?? bases.get(task); // a user may have classes of their own
    if (JSON.stringify(labels) !== JSON.stringify(state.get("labels"))) state.set({ labels });
    for (const name of names) await learnOf(name); // later: the labels need not wait for the other tasks
    if (!still()) return;
    const all = names.map((name) => bases.get(name).layers);
    const order = orderOf([bases.get(task).layers, ...all], bases.get(task).templates);
    const shared = names.length > 1 ? all[0].flatMap((_, l) => (all.every((layers) => bestOf(layers[l]) === bestOf(all[0][l])) ? [l] : [])) : [];
    const panels = [];
    if (own) {
      const moves = own.layers.map((row, l) => row.reduce((sum, value, k) => sum + Math.abs(value - own.base.layers[l][k]) / 2, 0));
      const most = Math.max(...moves);
      const rest = "what else was learned is in batch norm and the last layer.";
      panels.push(heatMap(`${user}, revision ${own.revision}`, own.layers, { order, against: own.base.layers }));
      summary.textContent =
        most > 0
          ? `${user}’s mixture moved away from ${task}’s, most in layer ${moves.indexOf(most) + 1}, by ${percent(most)}; ${rest}`
          : `${user}’s network mixes the templates as ${task} does; ${rest}`;
    } else if (names.length > 1) {
      summary.textContent = `${shared.length} of ${all[0].length} layers use the same template in every task, underlined in green.`;
    } else {
      summary.textContent = `${all[0].length} layers, ${bases.get(task).templates} templates.`;
    }
    for (const name of names) panels.push(heatMap(name, bases.get(name).layers, { order, shared }));
    maps.replaceChildren(...panels.map((panel, i) => element("div", { class: (own ? i === 0 : names[i] === task) ? "panel current" : "panel" }, panel)));
  }
}

const bestOf = (row) => row.indexOf(Math.max(...row));

/** Sort templates by their first use in the networks: their numbers are arbitrary. */
function orderOf(networks, count) {
  const met = networks.flatMap((layers) => layers.map(bestOf));
  return [...new Set([...met, ...Array.from({ length: count }, (_, k) => k)])];
}
