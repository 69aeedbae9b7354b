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

// Pictures of one group open large, in one place, so that one can be flicked over another.
const groups = document.querySelectorAll(".pictures");
if (groups.length) {
  const viewer = document.createElement("dialog");
  const large = document.createElement("img");
  const bar = document.createElement("form");
  viewer.className = "viewer";
  bar.method = "dialog";
  viewer.append(large, bar);
  document.body.append(viewer);
  let images = [], current = 0;
  const show = (index) => {
    current = (index + images.length) % images.length;
    large.src = images[current].src;
    large.alt = images[current].alt;
    images.forEach((_, at) => bar.children[at].setAttribute("aria-pressed", String(at === current)));
    bar.children[current].focus();
  };
  const open = (image) => {
    images = [...image.closest(".pictures").querySelectorAll("img")];
    bar.replaceChildren(...images.map((other, at) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = other.closest("figure").querySelector("figcaption")?.textContent ?? String(at + 1);
      button.addEventListener("click", () => show(at));
      return button;
    }), Object.assign(document.createElement("button"), {textContent: "close"}));
    bar.lastChild.addEventListener("click", (event) => { event.preventDefault(); viewer.close(); });
    viewer.setAttribute("aria-label", "Pictures of one image, large");
    viewer.showModal();
    show(images.indexOf(image));
  };
  large.addEventListener("click", () => show(current + 1));
  viewer.addEventListener("keydown", (event) => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (step) show(current + step);
  });
  for (const image of document.querySelectorAll(".pictures img")) {
    image.classList.add("can-enlarge");
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.title = "enlarge; arrow keys flick through";
    image.addEventListener("click", () => open(image));
    image.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(image); }
    });
  }
}
