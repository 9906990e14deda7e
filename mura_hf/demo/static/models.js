// Enter in the box for the name of a checkpoint loads it, as in the other boxes.
document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.isComposing || !event.target.closest?.("#model-name")) return;
  setTimeout(() => document.querySelector("#model-load")?.click(), 60); // after the box has stored the text
});

// A comparison appears below the window, so the page scrolls to it.
document.addEventListener("click", (event) => {
  const place = event.target.closest?.("#compare") && document.querySelector("#compared");
  if (!place) return;
  const observer = new MutationObserver(() => {
    place.scrollIntoView({ block: place.querySelector(".compared") ? "start" : "end" });
    if (place.querySelector(".compared, [role=alert]")) observer.disconnect();
  });
  observer.observe(place, { childList: true, subtree: true });
});
