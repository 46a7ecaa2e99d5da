"use strict";
// Pointing at a mark, tapping it or tabbing to it tells its numbers; a legend button hides an architecture everywhere.
const tip = document.getElementById("tip");
function show(mark, x, y) {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 4)) + "px";
  tip.style.top = Math.max(4, y - box.height - 10) + "px";
}
function tell(event) {
  const mark = event.target.closest("[data-tip]");
  tip.hidden = !mark;
  if (!mark) return;
  const at = mark.getBoundingClientRect();
  // A focus by key has no place of its own.
  if (event.type === "focusin") show(mark, at.left, at.top); else show(mark, event.clientX, event.clientY);
}
for (const kind of ["pointermove", "click", "focusin"]) document.addEventListener(kind, tell);
for (const kind of ["scroll", "focusout"]) document.addEventListener(kind, () => { tip.hidden = true; });
document.documentElement.addEventListener("pointerleave", () => { tip.hidden = true; });
for (const title of document.querySelectorAll(".mark > title")) title.remove(); // the browser's own, without scripts
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    const drawn = document.querySelectorAll(`svg [data-series="${button.dataset.series}"]`);
    for (const one of drawn) one.classList.toggle("off", off);
  });
}
