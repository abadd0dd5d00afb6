/** A slot for each channel, in which people put the files of a patient. */
import { inOne, matched } from "./patient.js";

export class Slots {
  /**
   * @param {HTMLElement} element holds the slots, a line of what is left to say, and two buttons
   * @param {string[]} channels
   * @param {(patient: import("./patient.js").Patient) => void} onPatient is given a patient whose files all have a place
   */
  constructor(element, channels, onPatient) {
    this.element = element;
    this.channels = channels;
    this.onPatient = onPatient;
    this.slots = channels.map((name, index) => this.#slot(name, index));
    element.querySelector("#slot-list").replaceChildren(...this.slots.map(({ card }) => card));
    element.querySelector("#predict").addEventListener("click", () => this.#hand());
    element.querySelector("#whole").addEventListener("click", () => this.take(this.files, true));
    element.hidden = channels.length < 2;
    this.clear();
  }

  clear() {
    this.files = [];
    this.placed = this.channels.map(() => null);
    this.#show();
  }

  /** A new patient: one file that is like no channel holds all of them; others go where their names say. */
  take(files, whole = false) {
    this.files = [...files];
    this.placed = whole ? this.channels.map(() => null) : matched(this.files, this.channels);
    this.#show();
    if (whole || (files.length === 1 && !this.placed.some(Boolean))) this.onPatient(inOne(this.files));
    else this.#settle();
  }

  /** One file more, or another one, for one channel. */
  #put(index, file) {
    if (file && !this.files.includes(file)) this.files.push(file);
    const before = this.placed[index];
    this.placed = this.placed.map((held, i) => (i === index ? file : held === file ? null : held));
    if (file && before && before !== file) this.files = this.files.filter((held) => held !== before);
    this.#show();
    this.#settle();
  }

  #settle() {
    if (this.placed.some(Boolean) && !this.#left().length) this.#hand();
  }

  #hand() {
    this.onPatient({ files: [...this.placed], perChannel: true });
  }

  #left() {
    return this.files.filter((file) => !this.placed.includes(file));
  }

  #show() {
    this.slots.forEach(({ card, select }, index) => {
      const options = this.files.map((file, i) => new Option(file.name, i));
      select.replaceChildren(new Option("missing", ""), ...options);
      select.value = this.placed[index] ? this.files.indexOf(this.placed[index]) : "";
      card.classList.toggle("filled", Boolean(this.placed[index]));
    });
    const [left, some] = [this.#left(), this.placed.some(Boolean)];
    const say = left.length > 0 && (some || this.files.length > 1);
    this.element.querySelector("#left").textContent = say
      ? `Which channel is ${left.map((file) => file.name).join(", ")}? Choose it in a slot${some ? ", or predict without" : ""}.`
      : "";
    this.element.querySelector("#predict").hidden = !say || !some;
    this.element.querySelector("#whole").hidden = !(this.files.length === 1 && some);
  }

  #slot(name, index) {
    const card = document.createElement("div");
    card.className = "slot";
    const [label, select, pick, button] = ["label", "select", "input", "label"].map((kind) => document.createElement(kind));
    select.id = `slot-${index}`;
    label.htmlFor = select.id;
    label.textContent = name;
    Object.assign(pick, { type: "file", id: `pick-${index}`, className: "picker" });
    pick.setAttribute("aria-label", `choose a file for ${name}`);
    button.htmlFor = pick.id;
    button.className = "button";
    button.textContent = "choose …";
    card.append(label, select, pick, button);
    select.addEventListener("change", () => this.#put(index, this.files[select.value] ?? null));
    pick.addEventListener("change", () => {
      if (pick.files.length) this.#put(index, pick.files[0]);
      pick.value = ""; // so that the same file can be chosen again
    });
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      card.addEventListener(kind, (event) => {
        card.classList.toggle("over", kind === "dragenter" || kind === "dragover");
        if (kind !== "drop" || event.dataTransfer.files.length !== 1) return;
        event.preventDefault();
        event.stopPropagation(); // it is for this channel, whatever its name
        this.#put(index, event.dataTransfer.files[0]);
      });
    }
    return { card, select };
  }
}
