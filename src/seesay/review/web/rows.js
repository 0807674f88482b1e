// The rows of the file, and those that the filters select.

export const REVIEWS = { "": "not reviewed", edited: "edited", accepted: "accepted", rejected: "rejected" };

const words = (text) => (text.trim() ? text.trim().split(/\s+/u).length : 0);

const ORDERS = {
  file: (a, b) => a.row - b.row,
  score: (a, b) => (a.score ?? Infinity) - (b.score ?? Infinity) || a.row - b.row,
  short: (a, b) => a.words - b.words || a.row - b.row,
  long: (a, b) => b.words - a.words || a.row - b.row,
};

export class Rows {
  constructor() {
    this.all = []; // by row number
    this.shown = []; // in the order of the page
    this.filters = { order: "file" };
  }

  /** Stores new versions of rows, in the objects of the old ones. */
  update(rows) {
    for (const { row: number, ...fields } of rows) {
      const row = Object.assign(this.all[number] ?? { row: number }, fields);
      row.words = words(row.caption);
      row.kind = row.reason.replace(/\s*\(.*\)/su, ""); // without the details, such as the refused text
      row.searched = `${row.caption}\n${row.image}\n${row.caption === row.model_caption ? "" : row.model_caption}`.toLowerCase();
      this.all[number] = row;
    }
  }

  /** Selects the rows that match all filters. */
  select(filters) {
    this.filters = filters;
    this.shown = this.all.filter((row) => this.matches(row));
    if (filters.order !== "file") this.shown.sort(ORDERS[filters.order]);
  }

  matches(row) {
    const { terms, review, minScore, maxScore, minWords, maxWords, reason } = this.filters;
    return terms.every((term) => row.searched.includes(term))
      && (review === null || row.review === review)
      && (minScore === null || (row.score !== null && row.score >= minScore))
      && (maxScore === null || (row.score !== null && row.score <= maxScore))
      && (minWords === null || row.words >= minWords)
      && (maxWords === null || row.words <= maxWords)
      && (reason === null || (reason === "*" ? row.kind !== "" : row.kind === reason));
  }

  /** Returns the number of rows per status. */
  counts() {
    const counts = Object.fromEntries(Object.keys(REVIEWS).map((review) => [review, 0]));
    for (const row of this.all) counts[row.review] += 1;
    return counts;
  }

  /** Returns the kinds of reasons of all rows with their numbers, most frequent first. */
  reasons() {
    const counts = new Map();
    for (const { kind } of this.all) if (kind) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    return [...counts].sort((a, b) => b[1] - a[1]);
  }
}
