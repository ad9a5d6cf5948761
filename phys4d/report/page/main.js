/** Starts the clips of a page: their index and their data are in the page, in files beside it, or on a server. */

import { Gallery } from "./gallery.js";

/** JSON of the script element of this id; undefined where there is none. */
function written(id) {
  const found = document.getElementById(id);
  return found ? JSON.parse(found.textContent) : undefined;
}

const arrived = new Map(); // number of a clip -> what to do with its data

/** Called by a file beside the page with the data of its clip. */
globalThis.phys4dClip = (number, data) => arrived.get(number)?.(data);

/** A clip of a file beside the page: a script, which browsers also load from a disk. */
function besideThePage(number, address) {
  return new Promise((resolve, reject) => {
    arrived.set(number, resolve);
    const script = document.createElement("script");
    script.src = address;
    script.onload = () => script.remove();
    script.onerror = () => reject(new Error(`${address} is absent; keep the folder beside the page`));
    document.head.append(script);
  });
}

async function served(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error((await answer.text()) || answer.statusText);
  return answer.json();
}

function load(index, number) {
  const inside = written(`clip-${number}`);
  if (inside) return Promise.resolve(inside);
  const { file, address } = index.clips[number];
  return file ? besideThePage(number, file) : served(address);
}

const index = written("index");
const place = document.getElementById("gallery");
if (index && place) globalThis.phys4dGallery = new Gallery(place, index, (number) => load(index, number));
