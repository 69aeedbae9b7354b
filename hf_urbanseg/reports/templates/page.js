"use strict";
// Tables with class "sortable": headings become buttons. A cell's value is its data-value, else its text.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const original = [...body.rows];
  table.querySelectorAll("thead th").forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const previous = heading.getAttribute("aria-sort");
      const values = original.map((row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim());
      const numeric = values.every((value) => value === "" || !Number.isNaN(Number(value)));
      // Numbers begin with the largest, names with A; the third click restores the page's own order.
      const order = numeric ? ["descending", "ascending"] : ["ascending", "descending"];
      const next = previous === null ? order[0] : previous === order[0] ? order[1] : null;
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      let rows = original;
      if (next) {
        heading.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        rows = original.map((row, index) => [row, values[index]]).sort(([, a], [, b]) => {
          if (a === "" || b === "") return (a === "") - (b === "");  // what doesn't exist comes last
          return sign * (numeric ? Number(a) - Number(b) : a.localeCompare(b));
        }).map(([row]) => row);
      }
      body.append(...rows);
    });
  });
}
