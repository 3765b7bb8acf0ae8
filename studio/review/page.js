// Everything on the page works without this; it only lets Escape and the arrow keys steer enlarged pictures.
addEventListener("keydown", (event) => {
  const open = document.querySelector(".strip input:checked");
  if (!open) return;
  if (event.key === "Escape") open.checked = false;
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const all = [...document.querySelectorAll(".strip input")];
  const next = all[all.indexOf(open) + step];
  if (next) { open.checked = false; next.checked = true; next.focus({ preventScroll: true }); }
  event.preventDefault();
});
