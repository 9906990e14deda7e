// The flow of the tab "Read a study": files that are dropped or pasted anywhere start a new study, the old one is hidden at
// once, and the new answer is scrolled into view and gets the focus. A ZIP file is for the worklist while that is open.
(() => {
  const find = (selector) => document.querySelector(selector);
  const inputOf = (button) => find(button)?.previousElementSibling; // Gradio puts it before its button
  const PARTS = ["answer", "notice", "empty", "reading"].map((name) => `#answer .${name}`).join(); // not Gradio's clock
  const content = () => [...document.querySelectorAll(PARTS)].map((part) => part.textContent).join();
  let phase = null; // of what the visitor asked for: "starting" until the server has closed the old study, then "reading"
  let before = ""; // what stood in place of the answer

  const start = (words, fromWorklist = false) => {
    phase = "starting";
    find("#answering")?.setAttribute("data-starting", words);
    const walk = find("mura-walk");
    if (walk) walk.hidden = !fromWorklist;
  };

  const stop = () => find("#answering")?.removeAttribute("data-starting");

  const fill = (input, files) => {
    const notices = [...document.querySelectorAll(".privacy")];
    if (!input) return notices.find((one) => one.offsetHeight)?.scrollIntoView({ block: "center" }); // not accepted yet
    const list = new DataTransfer();
    files.forEach((file) => list.items.add(file));
    input.files = list.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  };

  const isForList = ([file, ...more]) =>
    Boolean(find("#worklist-help")?.offsetHeight) && !more.length && /zip/i.test(file.type || file.name);

  const give = (files) => {
    if (isForList(files)) {
      const put = () => {
        const box = find("#worklist-upload"), input = box?.querySelector("input[type=file]");
        if (!box || input) return fill(input, files);
        box.querySelector("[aria-label=Clear]")?.click(); // while it has a file, it has no input
        requestAnimationFrame(put);
      };
      return put();
    }
    const tab = find("#tabs [role=tab]");
    if (tab?.getAttribute("aria-selected") !== "true") tab?.click();
    fill(inputOf("#new-study"), files);
  };

  const isOurs = (event) => !event.target.closest?.(".own-drop");

  const take = (event, transfer) => {
    const files = [...(transfer?.files ?? [])];
    document.body.classList.remove("dropping");
    if (!files.length || !isOurs(event)) return;
    event.preventDefault();
    event.stopPropagation();
    give(files);
  };

  const reveal = () => {
    const answer = find("#answer .answer") ?? find("#answer .notice");
    if (!answer) return;
    answer.tabIndex = -1;
    answer.focus({ preventScroll: true });
    const bottom = (find("#views .bar") ?? answer).getBoundingClientRect().bottom;
    const covered = find("#disclaimer").offsetHeight;
    answer.style.scrollMarginTop = `${covered + 6}px`; // just below it, so that nothing of the tabs looks out
    if (answer.getBoundingClientRect().top < covered || bottom > innerHeight) {
      (find("mura-walk:not([hidden])") ?? answer).scrollIntoView({ block: "start" });
    }
  };

  addEventListener("dragover", (event) => {
    if (!event.dataTransfer?.types.includes("Files") || !isOurs(event)) return;
    event.preventDefault();
    document.body.dataset.drop = isForList(event.dataTransfer.items) ? MURA_TEXTS.dropList : MURA_TEXTS.drop;
    document.body.classList.add("dropping");
  }, true);
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("dropping");
  }, true);
  addEventListener("drop", (event) => take(event, event.dataTransfer), true);
  addEventListener("paste", (event) => take(event, event.clipboardData), true);
  addEventListener("change", (event) => {
    if (event.target === inputOf("#new-study") || event.target === inputOf("#add-views")) start(MURA_TEXTS.uploading);
  }, true);
  addEventListener("click", (event) => {
    if (event.target.closest?.("[data-example]")) start(MURA_TEXTS.example);
    else if (event.target.closest?.("#anyway")) {
      phase = "reading";
      before = content();
    }
  }, true);
  addEventListener("mura-open", () => start(MURA_TEXTS.study, true), true);

  new MutationObserver((changes) => {
    const isRefusal = (node) => node.querySelector?.("[data-testid=toast-body].error");
    if (changes.some(({ addedNodes }) => [...addedNodes].some(isRefusal))) { // the old study stays
      if (phase === "starting" && find("mura-walk")) find("mura-walk").hidden = true; // it names the refused one
      phase = null;
      stop();
      const waiting = find("#answer .reading"); // it was to be read next
      if (waiting) waiting.textContent = MURA_TEXTS.refused;
    }
    if (phase === null) return;
    if (phase === "starting") {
      if (!find("#answer .reading[data-opened]")) return; // what comes before it is about the old study
      phase = "reading";
      before = "";
      stop();
    } else if (!find("#answer .reading") && content() !== before && find("#answer .answer, #answer .notice")) {
      phase = null;
      requestAnimationFrame(() => requestAnimationFrame(reveal)); // after the pictures have their place
    }
  }).observe(document.documentElement, { childList: true, subtree: true, characterData: true });
})();
