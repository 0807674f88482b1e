// A grid of cards of equal size, of which only those in sight are in the document.

const GAP = 12; // pixels between cards
const AHEAD = 1; // further rows of cards above and below the visible ones
const REST = 60; // milliseconds without scrolling until images are loaded

export class VirtualList {
  /** `make(item, position)` returns the card of an item; `load(card)` starts to load its image. */
  constructor(box, make, load) {
    this.box = box;
    this.make = make;
    this.load = load;
    this.items = [];
    this.cards = new Map(); // item -> card
    this.kept = null; // an item whose card stays in the document: it has the focus
    this.columns = 1;
    this.sizer = document.createElement("div");
    this.sizer.className = "sizer";
    this.sizer.setAttribute("role", "presentation");
    box.append(this.sizer);
    box.addEventListener("scroll", () => this.schedule(), { passive: true });
    new ResizeObserver(() => this.layOut()).observe(box);
  }

  setItems(items) {
    this.items = items;
    this.positions = new Map(items.map((item, position) => [item, position]));
    for (const card of this.cards.values()) card.remove();
    this.cards.clear();
    this.layOut();
  }

  layOut() {
    const style = getComputedStyle(this.box);
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const width = this.box.clientWidth - 2 * GAP;
    if (width <= 0) return; // not displayed
    this.height = rem * parseFloat(style.getPropertyValue("--card-height"));
    const least = rem * parseFloat(style.getPropertyValue("--card-width"));
    this.columns = Math.max(1, Math.floor((width + GAP) / (least + GAP)));
    this.width = (width - GAP * (this.columns - 1)) / this.columns;
    this.sizer.style.height = `${Math.ceil(this.items.length / this.columns) * (this.height + GAP) + GAP}px`;
    for (const [item, card] of this.cards) this.place(card, this.positions.get(item));
    this.render();
  }

  place(card, position) {
    const row = Math.floor(position / this.columns), column = position % this.columns;
    card.style.transform = `translate(${GAP + column * (this.width + GAP)}px, ${GAP + row * (this.height + GAP)}px)`;
    card.style.width = `${this.width}px`;
    card.style.height = `${this.height}px`;
  }

  schedule() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.render();
    });
  }

  /** Puts the cards in sight into the document, in order, and removes the others. */
  render() {
    if (!this.height) return;
    const pitch = this.height + GAP;
    const first = this.columns * Math.max(0, Math.floor(this.box.scrollTop / pitch) - AHEAD);
    const end = this.columns * (Math.ceil((this.box.scrollTop + this.box.clientHeight) / pitch) + AHEAD);
    const wanted = new Set(this.items.slice(first, end));
    if (this.kept && this.positions.has(this.kept)) wanted.add(this.kept);
    for (const [item, card] of this.cards) {
      if (wanted.has(item)) continue;
      card.remove();
      this.cards.delete(item);
    }
    let next = this.sizer.firstChild; // a card that is moved would lose the focus, so that only new ones are inserted
    for (const item of [...wanted].sort((a, b) => this.positions.get(a) - this.positions.get(b))) {
      const present = this.cards.get(item);
      if (present) next = present.nextSibling;
      else this.sizer.insertBefore(this.create(item), next);
    }
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.cards.forEach((card) => this.load(card)), REST);
  }

  create(item) {
    const position = this.positions.get(item);
    const card = this.make(item, position);
    this.place(card, position);
    this.cards.set(item, card);
    return card;
  }

  /** Scrolls a position into sight and returns its card. */
  reveal(position) {
    const item = this.items[position];
    const top = GAP + Math.floor(position / this.columns) * (this.height + GAP);
    const { scrollTop, clientHeight } = this.box;
    if (top < scrollTop + GAP) this.box.scrollTop = top - GAP;
    else if (top + this.height + GAP > scrollTop + clientHeight) this.box.scrollTop = top + this.height + GAP - clientHeight;
    this.kept = item;
    this.render();
    return this.cards.get(item);
  }
}
