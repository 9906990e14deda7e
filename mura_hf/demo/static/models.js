// Enter in the box for the name of a checkpoint loads it, as in the other boxes.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || !event.target.closest?.("#model-name")) return;
  setTimeout(() => document.querySelector("#model-load")?.click(), 60); // after the box has stored the text
});
