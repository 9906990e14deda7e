// Enter in the box for a checkpoint's name loads it, as it does in the other boxes.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || !event.target.closest?.("#model-name")) return;
  setTimeout(() => document.querySelector("#model-load")?.click(), 60); // after the box took what was typed
});
