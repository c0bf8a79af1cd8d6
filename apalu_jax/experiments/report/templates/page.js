"use strict";
// The page works without this: it adds sorting, and tooltips of what the links lead to.
const number = (cell) => {
  const text = cell.textContent.replace(/^<|−/g, (c) => (c === "−" ? "-" : ""));
  return text.trim() === "none" ? Infinity : parseFloat(text);
};
const compare = (a, b) => {
  const [x, y] = [number(a), number(b)];
  if (isNaN(x) && isNaN(y)) return a.textContent.localeCompare(b.textContent);
  return isNaN(x) - isNaN(y) || x - y;
};
for (const table of document.querySelectorAll("table")) {
  const [body] = table.tBodies;
  const heads = [...table.tHead.rows[0].cells];
  if (body.rows.length < 3) continue;
  heads.forEach((head, index) => {
    if (head.tagName !== "TH") return;
    const button = head.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = "↕";
    button.setAttribute("aria-label", `Sort by ${head.firstChild.textContent}`);
    button.onclick = () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => {
        other.removeAttribute("aria-sort");
        const mark = other.querySelector("button");
        if (mark) mark.textContent = "↕";
      });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      button.textContent = up ? "↑" : "↓";
      const rows = [...body.rows].sort((a, b) => compare(a.cells[index], b.cells[index]));
      body.append(...(up ? rows : rows.reverse()));
    };
  });
}
const tip = document.getElementById("tip");
const hide = () => { tip.hidden = true; };
for (const term of document.querySelectorAll(".term")) {
  const show = () => {
    tip.textContent = document.querySelector(term.hash).textContent;
    tip.hidden = false;
    const box = term.getBoundingClientRect();
    const below = box.bottom + 6 + tip.offsetHeight < innerHeight;
    tip.style.top = `${below ? box.bottom + 6 : box.top - 6 - tip.offsetHeight}px`;
    tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - tip.offsetWidth - 8))}px`;
  };
  term.setAttribute("aria-describedby", term.hash.slice(1));
  term.onmouseenter = term.onfocus = show;
  term.onmouseleave = term.onblur = hide;
}
addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
addEventListener("scroll", hide, true);
