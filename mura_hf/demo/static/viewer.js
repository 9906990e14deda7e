// <mura-viewer>: the views of one study. The server writes pictures, captions and controls; this script makes the controls
// work. Settings stay while the page is open, so that a new answer looks like the last one.
(() => {
  const BRIGHTNESS = { invert: false, level: 50, width: 100 }, FITTED = { zoom: 1, x: 0, y: 0 };
  const kept = { opacity: 50, split: 0, box: true, tools: false, ...BRIGHTNESS, ...FITTED };
  const LARGEST = 8;
  const between = (least, value, most) => Math.min(most, Math.max(least, value));
  let number = 0;

  class MuraViewer extends HTMLElement {
    connectedCallback() {
      this.state = kept;
      this.filter = `mura-window-${number++}`;
      // Gradio resets what differs from the server's HTML and reuses all other elements, so the listeners are on this
      // element, and the settings are applied again after each change.
      this.addEventListener("click", (event) => {
        const thumb = event.target.closest(".thumb"), button = event.target.closest("[data-do]");
        if (event.target.closest("summary")) {
          event.preventDefault();
          this.state.tools = !this.state.tools;
          this.paint();
        } else if (thumb) this.choose([...this.querySelectorAll(".thumb")].indexOf(thumb));
        else if (button) this.act(button.dataset.do);
      });
      this.addEventListener("input", (event) => {
        const control = event.target;
        if (control.dataset.set === "marked") this.marked.set(this.place, control.checked);
        else this.state[control.dataset.set] = control.type === "checkbox" ? control.checked : Number(control.value);
        this.paint();
      });
      const onStage = (does) => (event) => { if (event.target.closest(".stage")) does.call(this, event); };
      this.addEventListener("keydown", onStage(this.press));
      this.addEventListener("wheel", onStage(this.wheel), { passive: false });
      this.addEventListener("pointerdown", onStage(this.grab));
      this.addEventListener("dblclick", onStage(() => this.act("fit")));
      this.addEventListener("contextmenu", (event) => {
        if (this.windowed || this.isPressed) event.preventDefault(); // some browsers open it on press, others on release
        this.windowed = false;
      });
      this.addEventListener("fullscreenchange", () => this.paint());
      this.observer = new MutationObserver(() => this.settle());
      this.observer.observe(this, { attributes: true, childList: true, subtree: true });
      this.settle();
    }

    disconnectedCallback() { this.observer.disconnect(); }

    settle() {
      if (this.answer !== this.dataset.answer) { // a new study or a new answer
        this.answer = this.dataset.answer;
        const pictures = [...this.querySelectorAll(".film")].map(({ src }) => src.length + src.slice(-99)).join();
        if (this.pictures !== pictures) Object.assign(this.state, BRIGHTNESS); // another study
        this.pictures = pictures;
        this.marked = new Map(); // views whose heatmap and box the visitor has shown or hidden
        this.choose(Number(this.dataset.first));
      } else this.paint();
    }

    get stage() { return this.querySelector(".stage"); }

    get views() { return [...this.querySelectorAll(".view")]; }

    get isMarked() { return this.marked.get(this.place) ?? !this.views[this.place].classList.contains("low"); }

    choose(place) {
      const count = this.views.length;
      this.place = (place + count) % count;
      Object.assign(this.state, FITTED);
      this.paint();
      const strip = this.querySelector(".thumbs"), thumb = strip?.children[this.place];
      if (thumb) strip.scrollLeft += thumb.getBoundingClientRect().right - strip.getBoundingClientRect().right + 60;
    }

    act(name) {
      const { state } = this;
      if (name === "in") this.zoom(state.zoom * 1.4);
      else if (name === "out") this.zoom(state.zoom / 1.4);
      else if (name === "fit") Object.assign(state, FITTED);
      else if (name === "reset") Object.assign(state, BRIGHTNESS);
      else if (document.fullscreenElement) document.exitFullscreen();
      else this.requestFullscreen?.().then(() => this.stage.focus()); // whose keys work then
      this.paint();
    }

    zoom(wanted, x = 0, y = 0) { // x, y: fixed point, from the centre of the stage
      const { state } = this;
      const zoom = between(1, wanted, LARGEST);
      const ratio = zoom / state.zoom;
      Object.assign(state, { zoom, x: x - (x - state.x) * ratio, y: y - (y - state.y) * ratio });
      this.paint();
    }

    wheel(event) {
      if (!event.ctrlKey && this.state.zoom === 1 && event.deltaY > 0) return; // let the page scroll
      if (!event.ctrlKey && document.activeElement !== this.stage) return;
      event.preventDefault();
      const frame = this.stage.getBoundingClientRect();
      const x = event.clientX - frame.left - frame.width / 2, y = event.clientY - frame.top - frame.height / 2;
      this.zoom(this.state.zoom * Math.exp(-event.deltaY / 400), x, y);
    }

    grab(event) {
      const { state, stage } = this, start = { ...state }, isRight = event.button === 2;
      const isWindow = isRight || (event.button === 0 && event.altKey);
      this.windowed = false; // whether the right button was dragged, so that its menu is not wanted
      if (!isWindow && (event.button !== 0 || state.zoom === 1)) return;
      const move = (moved) => {
        const x = moved.clientX - event.clientX, y = moved.clientY - event.clientY;
        this.windowed ||= isRight && Math.hypot(x, y) > 3;
        if (isWindow) { // half a percent for each pixel
          state.width = between(5, Math.round(start.width + x / 2), 200);
          state.level = between(0, Math.round(start.level + y / 2), 100);
        } else Object.assign(state, { x: start.x + x, y: start.y + y });
        this.paint();
      };
      const end = () => {
        this.isPressed = false;
        stage.removeEventListener("pointermove", move);
        stage.classList.remove("held");
      };
      this.isPressed = isRight;
      stage.setPointerCapture(event.pointerId);
      stage.classList.add("held");
      stage.addEventListener("pointermove", move);
      stage.addEventListener("pointerup", end, { once: true });
      stage.addEventListener("pointercancel", end, { once: true });
    }

    press(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const { state } = this, step = 40;
      const doing = {
        "+": () => this.act("in"), "=": () => this.act("in"), "-": () => this.act("out"), 0: () => this.act("fit"),
        f: () => this.act("full"), i: () => { state.invert = !state.invert; }, b: () => { state.box = !state.box; },
        h: () => this.marked.set(this.place, !this.isMarked),
        n: () => this.choose(this.place + 1), p: () => this.choose(this.place - 1),
      };
      if (state.zoom > 1) Object.assign(doing, {
        ArrowLeft: () => { state.x += step; }, ArrowRight: () => { state.x -= step; },
        ArrowUp: () => { state.y += step; }, ArrowDown: () => { state.y -= step; },
      });
      const chosen = doing[event.key];
      if (!chosen) return;
      event.preventDefault();
      chosen();
      this.paint();
    }

    paint() {
      const { state, stage, views } = this;
      if (!views.length) return;
      this.place = Math.min(this.place, views.length - 1);
      views.forEach((view, place) => { view.hidden = place !== this.place; });
      this.querySelectorAll(".thumb").forEach((thumb, place) => {
        thumb.setAttribute("aria-pressed", String(place === this.place));
      });
      this.querySelector("filter").id = this.filter;
      const stack = views[this.place].querySelector(".stack");
      const reach = (size, stage) => Math.max(0, (size * state.zoom - stage) / 2); // the picture cannot leave the stage
      const x = reach(stack.offsetWidth, stage.clientWidth), y = reach(stack.offsetHeight, stage.clientHeight);
      state.x = between(-x, state.x, x);
      state.y = between(-y, state.y, y);
      stack.style.transform = `translate(${state.x}px, ${state.y}px) scale(${state.zoom})`;
      const width = state.width / 100, sign = state.invert ? -1 : 1;
      const slope = sign / width, intercept = 0.5 - (slope * state.level) / 100;
      for (const channel of this.querySelectorAll("feFuncR, feFuncG, feFuncB")) {
        channel.setAttribute("slope", slope);
        channel.setAttribute("intercept", intercept);
      }
      const plain = !state.invert && state.level === 50 && state.width === 100;
      this.style.setProperty("--film", plain ? "none" : `url(#${this.filter})`);
      const isEmpty = !views[this.place].querySelector(".heat"), marked = this.isMarked && !isEmpty;
      this.style.setProperty("--heat", marked ? state.opacity / 100 : 0);
      this.style.setProperty("--split", `${state.split}%`);
      this.style.setProperty("--line", marked && state.split > 0 && state.split < 100 ? 1 : 0);
      this.style.setProperty("--box", marked && state.box ? 1 : 0);
      this.style.setProperty("--thin", 1 / state.zoom);
      stage.classList.toggle("zoomed", state.zoom > 1);
      this.querySelector("details.tools").open = state.tools;
      for (const control of this.querySelectorAll("[data-set]")) {
        const value = control.dataset.set === "marked" ? marked : state[control.dataset.set];
        if (control.dataset.set === "marked") control.disabled = isEmpty;
        if (control.type === "checkbox") control.checked = value;
        else control.value = value;
      }
      for (const shown of this.querySelectorAll("output[data-of]")) {
        const value = shown.dataset.of === "zoom" ? Math.round(100 * state.zoom) : state[shown.dataset.of];
        shown.textContent = `${value} %`;
      }
      for (const note of this.querySelectorAll("[data-empty]")) note.hidden = !isEmpty;
      const full = this.querySelector("[data-do=full]");
      full.hidden = !document.fullscreenEnabled;
      full.textContent = document.fullscreenElement ? MURA_TEXTS.leave : MURA_TEXTS.full;
      this.observer.takeRecords(); // ignore changes made here
    }
  }
  if (!customElements.get("mura-viewer")) customElements.define("mura-viewer", MuraViewer);
})();
