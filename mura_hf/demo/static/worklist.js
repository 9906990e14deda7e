// <mura-worklist>: sorts and filters the rows that the server wrote, and sends the event "mura-open" with the number of a
// study to open. The server changes rows in place while it reads, so order, filters and focus are restored whenever
// data-version changes. <mura-walk>, above an opened study, opens the previous or the next one in the order of the table.
(() => {
  const NATURAL = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
  const BANDS = ["suspected", "uncertain", "out_of_distribution", "failed", "low"];
  const text = (row, place) => row.cells[place].textContent;
  const fill = (words, ...values) => words.replace(/{}/g, () => values.shift());
  const KEYS = {
    study: (row) => text(row, 0),
    part: (row) => row.dataset.part,
    chance: (row) => -Number(row.dataset.rank), // the server's order, in which studies without an answer are not last
    band: (row) => BANDS.indexOf(row.dataset.band),
    views: (row) => Number(text(row, 4)),
    notes: (row) => Number(row.cells[5].dataset.count),
  };
  const FIRST_DOWN = ["chance", "views", "notes"]; // descending at the first click

  class MuraWorklist extends HTMLElement {
    static observedAttributes = ["data-version"];

    connectedCallback() {
      if (!this.state) {
        this.state = { sort: "chance", down: true, part: "", band: "" };
        this.seen = new Set(); // studies that were opened
        this.addEventListener("click", (event) => this.click(event));
        this.addEventListener("keydown", (event) => this.press(event));
        this.addEventListener("change", (event) => {
          if (!event.target.matches("[data-filter]")) return;
          this.state[event.target.dataset.filter] = event.target.value;
          this.apply();
        });
      }
      this.watch = new ResizeObserver(() => this.restore()); // it has no size while another tab is shown
      this.watch.observe(this);
      this.later();
    }

    disconnectedCallback() { this.watch.disconnect(); }

    attributeChangedCallback() {
      if (!this.state) return;
      this.held = document.activeElement?.closest?.("mura-worklist tbody tr")?.dataset.study; // before the rows change
      this.later();
    }

    later() {
      if (this.waiting) return;
      this.waiting = true;
      queueMicrotask(() => {
        this.waiting = false;
        this.apply();
      });
    }

    apply() {
      const body = this.querySelector("tbody");
      if (!body) return;
      const { sort, down, part, band } = this.state;
      const rows = [...body.rows];
      const keyed = rows.map((row) => ({ row, key: KEYS[sort](row), rank: Number(row.dataset.rank) }));
      const sign = down ? -1 : 1;
      keyed.sort((one, other) => {
        const order = typeof one.key === "string" ? NATURAL.compare(one.key, other.key) : one.key - other.key;
        return sign * order || one.rank - other.rank;
      });
      if (keyed.some(({ row }, place) => row !== rows[place])) body.replaceChildren(...keyed.map(({ row }) => row));
      let shown = 0;
      for (const row of rows) {
        row.hidden = (part !== "" && row.dataset.part !== part) || (band !== "" && row.dataset.band !== band);
        shown += !row.hidden;
        if (this.seen.has(row.dataset.study)) this.mark(row);
      }
      for (const button of this.querySelectorAll("[data-sort]")) {
        const order = button.dataset.sort === sort ? (down ? "descending" : "ascending") : "none";
        button.closest("th").setAttribute("aria-sort", order);
      }
      for (const select of this.querySelectorAll("[data-filter]")) select.value = this.state[select.dataset.filter];
      const words = shown === rows.length ? fill(MURA_TEXTS.all, shown) : fill(MURA_TEXTS.some, shown, rows.length);
      const output = this.querySelector(".shown");
      if (output.textContent !== words) output.textContent = words;
      if (this.held !== undefined) {
        this.querySelector(`tr[data-study="${this.held}"] .open`)?.focus({ preventScroll: true });
        this.held = undefined;
      }
    }

    click(event) {
      const sorter = event.target.closest("[data-sort]");
      if (sorter) {
        const key = sorter.dataset.sort;
        this.state.down = key === this.state.sort ? !this.state.down : FIRST_DOWN.includes(key);
        this.state.sort = key;
        return this.apply();
      }
      const row = event.target.closest("tbody tr");
      if (!row) return;
      if (!event.target.closest(".open") && String(getSelection())) return; // the visitor selects text
      this.place = { page: scrollY, list: this.querySelector(".scroll").scrollTop };
      this.left = false;
      this.open(row);
    }

    open(row) {
      if (document.querySelector("#answering[data-starting]")) return; // the server is opening another one
      const study = Number(row.dataset.study), rows = this.rows;
      this.opened = row.dataset.study;
      this.seen.add(this.opened);
      this.mark(row);
      this.dispatchEvent(new CustomEvent("mura-open", { bubbles: true, detail: { study } }));
      document.querySelector("mura-walk")?.show(row.querySelector("bdi").textContent, rows.indexOf(row), rows.length);
    }

    mark(row) {
      row.querySelector("bdi").dataset.seen = MURA_TEXTS.seen;
      row.querySelector(".open").setAttribute("aria-description", MURA_TEXTS.before);
    }

    get rows() { return [...this.querySelectorAll("tbody tr:not([hidden])")]; }

    walk(step) {
      const { rows } = this, row = rows[rows.findIndex((one) => one.dataset.study === this.opened) + step];
      if (row) this.open(row);
    }

    restore() { // back at the table, the visitor sees what was seen before
      this.left ||= !this.offsetHeight;
      if (!this.place || !this.left || !this.offsetHeight) return;
      this.querySelector(".scroll").scrollTop = this.place.list;
      scrollTo(0, this.place.page);
      const row = this.querySelector(`tr[data-study="${this.opened}"]`);
      row?.querySelector(".open").focus({ preventScroll: true });
      row?.scrollIntoView({ block: "nearest" }); // it may be another one than before
      this.place = null;
    }

    press(event) {
      const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
      if (!step || !event.target.matches(".open")) return;
      event.preventDefault();
      const buttons = [...this.querySelectorAll("tbody tr:not([hidden]) .open")];
      buttons[buttons.indexOf(event.target) + step]?.focus();
    }
  }

  class MuraWalk extends HTMLElement {
    connectedCallback() {
      this.addEventListener("click", ({ target }) => {
        const list = document.querySelector("mura-worklist");
        if (target.dataset.step) list?.walk(Number(target.dataset.step));
        else if ("back" in target.dataset) {
          if (list) list.place ??= { page: 0, list: 0 }; // the visitor was back before, by the tab
          [...document.querySelectorAll("#tabs [role=tab]")].find((tab) => tab.textContent.trim() === MURA_TEXTS.worklist)?.click();
        }
      });
    }

    show(name, place, count) {
      this.querySelector(".place").textContent = fill(MURA_TEXTS.place, name, place + 1, count);
      this.querySelector('[data-step="-1"]').disabled = place <= 0;
      this.querySelector('[data-step="1"]').disabled = place >= count - 1;
    }
  }
  if (!customElements.get("mura-worklist")) {
    customElements.define("mura-worklist", MuraWorklist);
    customElements.define("mura-walk", MuraWalk);
  }
})();
