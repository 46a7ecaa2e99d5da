"use strict";
// Hovering or focusing a mark tells its numbers; a legend button hides an architecture in the lines.
const tip = document.getElementById("tip");
function show(mark, x, y) {
  tip.textContent = mark.dataset.tip;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 12, innerWidth - box.width - 4)) + "px";
  tip.style.top = Math.max(4, y - box.height - 10) + "px";
}
for (const mark of document.querySelectorAll("[data-tip]")) {
  mark.querySelector("title")?.remove(); // the browser's own, for those without scripts
  mark.addEventListener("pointermove", (event) => show(mark, event.clientX, event.clientY));
  mark.addEventListener("pointerleave", () => { tip.hidden = true; });
  mark.addEventListener("focus", () => { const at = mark.getBoundingClientRect(); show(mark, at.left, at.top); });
  mark.addEventListener("blur", () => { tip.hidden = true; });
}
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const off = button.getAttribute("aria-pressed") === "true";
    button.setAttribute("aria-pressed", String(!off));
    for (const series of document.querySelectorAll(".series")) {
      if (series.dataset.series === button.textContent) series.classList.toggle("off", off);
    }
  });
}
