/** The clips of the page as cards: chosen, filtered by category, sorted by a figure, opened in the viewer. */

import { choice, element, number } from "./elements.js";
import { Viewer } from "./viewer.js";

const PAGE = 60; // cards that are added at once

/**
 * Shows the clips of an index.
 *
 * @param {HTMLElement} place
 * @param {{figures: object[], clips: object[]}} index figures with name, unit, higher (is better) and decimals; clips
 *     with title, caption, category, family, values (by figure) and poster (an address, or none).
 * @param {(number: number) => Promise<object>} load the data of a clip.
 */
export class Gallery {
  constructor(place, index, load) {
    this.index = index;
    this.load = load;
    this.shown = PAGE;
    this.filter = "";
    this.sort = "";
    this.cards = element("div", { class: "cards", role: "list" });
    this.more = element("button", {
      type: "button",
      class: "more",
      click: () => {
        this.shown += PAGE;
        this.list();
      },
    });
    this.message = element("p", { class: "message", role: "status" });
    const view = element("div", { class: "viewer", tabindex: 0 });
    place.replaceChildren(this.toolbar(), this.cards, this.more, this.message, view);
    this.viewer = new Viewer(view);
    this.place = place;
    this.list();
    document.addEventListener("keydown", (event) => this.key(event));
    if (this.order.length) this.open(this.order[0]);
  }

  toolbar() {
    const groups = ["category", "family"].find((name) => new Set(this.index.clips.map((clip) => clip[name])).size > 1);
    const values = groups ? [...new Set(this.index.clips.map((clip) => clip[groups]))].sort() : [];
    const sorts = { "": "as listed" };
    this.index.figures.forEach((figure, i) => {
      sorts[i] = `${figure.name}, best first`;
      sorts[`${i} worst`] = `${figure.name}, worst first`;
    });
    const changed = (name) => (value) => {
      this[name] = value;
      this.shown = PAGE;
      this.list();
    };
    this.group = groups;
    return element(
      "div",
      { class: "choices" },
      ...(groups
        ? [
            choice(
              groups,
              Object.fromEntries([["", "all"], ...values.map((value) => [value, value || "not stated"])]),
              "",
              changed("filter"),
            ),
          ]
        : []),
      ...(this.index.figures.length && this.index.clips.length > 1
        ? [choice("sort by", sorts, "", changed("sort"))]
        : []),
    );
  }

  /** Numbers of the clips that pass the filter, in the chosen order. */
  ordered() {
    const { clips, figures } = this.index;
    const some = clips.map((_, i) => i).filter((i) => this.filter === "" || clips[i][this.group] === this.filter);
    if (this.sort === "") return some;
    const [number, worst] = this.sort.split(" ");
    const figure = figures[Number(number)];
    const sign = (figure.higher ? -1 : 1) * (worst ? -1 : 1);
    const value = (i) => clips[i].values[figure.name];
    const known = some.filter((i) => Number.isFinite(value(i)));
    return [
      ...known.sort((a, b) => sign * (value(a) - value(b)) || a - b),
      ...some.filter((i) => !Number.isFinite(value(i))),
    ];
  }

  list() {
    this.order = this.ordered();
    const some = this.order.slice(0, this.shown);
    this.cards.replaceChildren(...some.map((i) => this.card(i)));
    const rest = this.order.length - some.length;
    this.more.hidden = rest === 0;
    this.more.textContent = `${rest} more`;
    this.mark();
  }

  card(i) {
    const clip = this.index.clips[i];
    const at = this.sort === "" ? 0 : Number(this.sort.split(" ")[0]);
    const figure = this.index.figures[at];
    const value = figure && clip.values[figure.name];
    const line =
      figure && Number.isFinite(value) ? `${figure.name} ${number(value, figure.decimals)} ${figure.unit}` : "";
    const picture = clip.poster ? [element("img", { src: clip.poster, alt: "", loading: "lazy" })] : [];
    return element(
      "button",
      {
        type: "button",
        class: "card",
        role: "listitem",
        "data-clip": i,
        title: clip.caption,
        click: () => this.open(i),
      },
      ...picture,
      element(
        "span",
        { class: "words" },
        element("b", { text: clip.title }),
        element("small", { text: line }),
        element("small", { class: "caption", text: clip.caption }),
      ),
    );
  }

  mark() {
    for (const card of this.cards.children)
      card.setAttribute("aria-current", String(Number(card.dataset.clip) === this.current));
  }

  async open(i) {
    this.current = i;
    this.mark();
    const clip = this.index.clips[i];
    this.message.textContent = "";
    try {
      const data = await this.load(i);
      if (this.current !== i) return;
      await this.viewer.open(data, clip.title);
      if (!this.started && !matchMedia("(prefers-reduced-motion: reduce)").matches) this.viewer.transport.start();
      this.started = true;
      document.documentElement.dataset.opened = i;
    } catch (error) {
      this.message.textContent = `${clip.title} cannot be shown: ${error.message}`;
    }
  }

  key(event) {
    const typing = event.target.closest?.("input, select, textarea, button, summary, a");
    const box = this.viewer.place.getBoundingClientRect();
    const inView = box.top < innerHeight * 0.6 && box.bottom > innerHeight * 0.4;
    if (typing || !inView || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = { "[": -1, "]": 1 }[event.key];
    const number = this.order[this.order.indexOf(this.current) + (next ?? 0)];
    if (next && number !== undefined) this.open(number);
    else if (!next && !this.viewer.key(event.key)) return;
    event.preventDefault();
  }
}
