/** Elements of the page, made without reading any text as HTML. */

/**
 * A new element.
 *
 * @param {string} name such as "button".
 * @param {object} settings attributes; `text` is its text, functions are listeners of the event of their name.
 * @param {...(Node|string)} children
 */
export function element(name, settings = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(settings)) {
    if (key === "text") made.textContent = value;
    else if (typeof value === "function") made.addEventListener(key, value);
    else if (value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/**
 * A labelled choice.
 *
 * @param {Object<string, string>} options value -> words.
 * @param {(value: string) => void} chosen called with the new value.
 */
export function choice(label, options, value, chosen) {
  const select = element("select", { "aria-label": label, change: () => chosen(select.value) });
  for (const [key, words] of Object.entries(options)) select.append(element("option", { value: key, text: words }));
  select.value = value;
  return element("label", { class: "choice" }, element("span", { text: label }), select);
}

/** A number with a true minus sign; a dash where there is none. */
export function number(value, decimals) {
  return Number.isFinite(value) ? value.toFixed(decimals).replace("-", "−") : "–";
}
