"""What visitors do on the page, and what must hold in every state of it."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from mura_hf.demo.templates import MODEL_FOLDER, MODEL_NAME, NEW_STUDY

from .running import WAIT

NAME_OF_MODEL = MODEL_NAME + MODEL_FOLDER


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()
    expect(page.get_by_role("tab", name=name)).to_have_attribute("aria-selected", "true", timeout=WAIT)
    page.locator("[role=tabpanel] :is(button, h2):visible").first.wait_for(timeout=WAIT)  # its content comes later


def choose(page: Page, label: str, option: str) -> None:
    box = page.get_by_role("combobox", name=label)
    box.evaluate("box => box.scrollIntoView({ block: 'center' })")  # else its options may open beyond the window
    box.click()
    page.get_by_role("option", name=option).first.click()


def choose_model(page: Page, name: str) -> None:
    open_tab(page, "Models")
    choose(page, NAME_OF_MODEL, name)
    page.get_by_role("button", name="Load the model").click()
    expect(page.locator("#model-state")).to_contain_text(name, timeout=WAIT)


def load_model(page: Page, name: object, label: str = "") -> None:
    page.get_by_role("combobox", name=NAME_OF_MODEL).fill(str(name))
    page.get_by_label("Abnormal label").fill(label)
    page.get_by_role("button", name="Load the model").click()


def unfold(page: Page, *names: str) -> None:
    for name in names:
        button = page.get_by_role("button", name=name)
        if not button.locator("..").get_by_test_id("accordion-content").is_visible():
            button.click()


def clear(page: Page) -> None:
    page.locator("#study-files").get_by_label("Clear").first.click()
    expect(page.locator("#answer .empty")).to_be_visible(timeout=WAIT)


def upload(page: Page, *files: str, button: str = NEW_STUDY) -> None:
    with page.expect_file_chooser() as chooser:  # a click also forgets the files before, which may be the same
        page.get_by_role("button", name=button, exact=True).click()
    chooser.value.set_files(list(files))


def open_example(page: Page, number: int) -> None:
    page.locator(f"[data-example='{number}']").click()


def drop(page: Page, *files: str, kind: str = "drop") -> None:
    """Drops or pastes files outside any box."""
    given = [(Path(file).name, base64.b64encode(Path(file).read_bytes()).decode()) for file in files]
    page.evaluate(
        """([files, kind]) => {
            const data = new DataTransfer(), options = { bubbles: true, cancelable: true };
            for (const [name, text] of files) {
                data.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], name));
            }
            const event = kind === "drop"
                ? new DragEvent("drop", { ...options, dataTransfer: data })
                : new ClipboardEvent("paste", { ...options, clipboardData: data });
            document.querySelector("#heading").dispatchEvent(event);
        }""",
        [given, kind],
    )


def start_worklist(page: Page, file: Path) -> None:
    box = page.locator("#worklist-upload")
    box.locator("input[type=file]").set_input_files(str(file))
    expect(box).to_contain_text(file.stem, timeout=WAIT)  # the name may be broken where the box is narrow
    page.get_by_role("button", name="Read the studies").click()


def download(page: Page, label: str) -> tuple[str, bytes]:
    with page.expect_download() as given:
        page.get_by_role("button", name=label).click()
    return given.value.suggested_filename, Path(given.value.path()).read_bytes()


WATCH = """() => {
    const viewer = () => document.querySelector("#views mura-viewer");
    const old = viewer().dataset.answer;
    const watched = window.watched = { isOver: false, isStarted: false, stale: [] };
    const isAnswered = () => Boolean(document.querySelector("#answer :is(.answer, .notice)"));
    watched.isReplaced = () => watched.isStarted && viewer()?.dataset.answer !== old && isAnswered();
    const types = { drop: "*", paste: "*", change: "[type=file]", click: "[data-example]", "mura-open": "*" };
    for (const [type, starter] of Object.entries(types)) {
        addEventListener(type, ({ target }) => {
            if (watched.isOver || !target.closest?.(starter)) return;
            watched.isStarted = true;
            const shown = ["#views", "#answer"].filter((part) => document.querySelector(part).offsetHeight > 0);
            watched.stale.push(...shown.map((part) => `${part} at ${type}`));
        }, true);
    }
    const look = () => {
        if (watched.isStarted && viewer()?.dataset.answer === old && viewer().offsetHeight > 0) {
            watched.stale.push("views later");
        }
        if (!watched.isOver) requestAnimationFrame(look);
    };
    look();
}"""


@contextmanager
def expect_replaced(page: Page) -> Iterator[None]:
    """The open study is hidden at the very event that starts another one, and in no frame until that is shown."""
    page.evaluate(WATCH)
    yield
    page.wait_for_function("watched.isReplaced()", timeout=WAIT)
    page.evaluate("watched.isOver = true")
    assert page.evaluate("watched.stale") == []


def expect_revealed(page: Page) -> Locator:
    """The verdict is in sight and has the focus, and nothing contradicts it. Returns it."""
    answer = page.locator("#answer .answer")
    expect(answer).to_be_visible(timeout=WAIT)
    expect(answer).to_be_focused(timeout=WAIT)
    expect(answer.locator("h2")).to_be_in_viewport(ratio=1)
    assert page.evaluate(CONTRADICTIONS) == []
    return answer


CONTRADICTIONS = r"""() => {
    const find = (all) => [...document.querySelectorAll(all)].filter((one) => one.checkVisibility());
    // How alarming a colour is: green 0, amber 1, red 2; null for gray and other colours.
    const alarm = (colour) => {
        const [r, g, b] = colour.match(/[\d.]+/g).map(Number), most = Math.max(r, g, b);
        const span = most - Math.min(r, g, b);
        if (span < 40) return null;
        const hue = 60 * (most === r ? (g - b) / span : most === g ? 2 + (b - r) / span : 4 + (r - g) / span);
        return hue < -30 ? null : hue < 20 ? 2 : hue < 70 ? 1 : hue < 180 ? 0 : null;
    };
    const words = (node) => [/not flagged|no \w+ flagged/i, /uncertain/i, /suspected/i]
        .findIndex((one) => one.test(node.textContent));
    const [verdict] = find("#answer .answer h2"), text = verdict.textContent, said = words(verdict), found = [];
    const shown = alarm(getComputedStyle(verdict).color), wanted = /^\S+ (Not|Perhaps)/.test(text) ? 1 : said;
    if (shown !== wanted) found.push(`${text}: colour ${shown}`);
    for (const [part, property] of [[".zone.here", "backgroundColor"], [".scale .here", "color"]]) {
        for (const one of find(`#answer .answer ${part}`)) {
            const colour = alarm(getComputedStyle(one)[property]);
            if (colour !== shown) found.push(`${text}: ${part} has colour ${colour}`);
        }
    }
    const states = find("#views .state").map((one) => [one, alarm(getComputedStyle(one).color), words(one)]);
    for (const [one, colour, band] of states) {
        if (colour === null && band === -1) continue; // of a study that is not answered
        const isMore = colour === null || colour > shown || band > said;
        const isOther = band >= 0 && shown === said && colour !== band;
        if (isMore || isOther) found.push(`${text}: ${one.textContent} has colour ${colour}`);
    }
    if (said >= 0 && !states.some(([, colour]) => colour === shown)) found.push(`${text}: no view has its colour`);
    return found;
}"""
"""What contradicts the verdict, in words or colours: its bar, and views that are more alarming than the study."""


CONTRAST = r"""() => {
    const white = [255, 255, 255, 1], clear = [0, 0, 0, 0], known = new Map();
    const rgba = (text) => {
        if (!text.startsWith("rgb")) throw new Error(`colour ${text}`);
        const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
        return [r, g, b, a];
    };
    const over = (top, under) => {
        const rest = under[3] * (1 - top[3]), alpha = top[3] + rest;
        return alpha ? [...[0, 1, 2].map((c) => (top[c] * top[3] + under[c] * rest) / alpha), alpha] : clear;
    };
    const behind = (style, layer) => { // what is seen of a layer over its background, and how opaque both are
        const [r, g, b, a] = over(layer, rgba(style.backgroundColor));
        return [r, g, b, a * style.opacity];
    };
    const styleOf = (node) => {
        if (!known.has(node)) {
            const { backgroundColor, opacity } = getComputedStyle(node);
            known.set(node, { backgroundColor, opacity });
        }
        return known.get(node);
    };
    const paint = (node, layer) => {
        for (let one = node; one; one = one.parentElement) layer = behind(styleOf(one), layer);
        return over(layer, white);
    };
    const light = (colour) => colour.slice(0, 3).map((value) => value / 255)
        .map((value) => (value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4))
        .reduce((sum, value, c) => sum + value * [.2126, .7152, .0722][c], 0);
    const body = document.body, wasDark = body.classList.contains("dark"), still = document.createElement("style");
    still.textContent = "*, ::before, ::after { transition: none !important; animation: none !important }";
    document.head.append(still); // colours change at once
    const all = [...body.querySelectorAll(":not(script, style, option, optgroup)")]
        .filter((node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true }))
        .filter((node) => !node.closest(":disabled, [aria-disabled=true], label:has(:disabled)"));
    const typed = "select, textarea, input:not([type=checkbox], [type=radio], [type=range], [type=file])";
    const weak = new Map();
    let count = 0, theme;
    const check = (node, text, colour, pseudo) => {
        if (!text?.trim()) return;
        const through = (layer) => paint(node, pseudo ? behind(pseudo, layer) : layer);
        const [a, b] = [rgba(colour), clear].map((layer) => light(through(layer)));
        const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
        count += 1;
        const name = `${theme} ${text.trim().slice(0, 40)} (${node.tagName} ${node.className})`;
        if (ratio < 4.5) weak.set(name, ratio.toFixed(2));
    };
    for (const dark of [!wasDark, wasDark]) {
        theme = dark ? "dark" : "light";
        body.classList.toggle("dark", dark);
        known.clear();
        for (const node of all) {
            const colour = getComputedStyle(node)[node instanceof SVGElement ? "fill" : "color"];
            const texts = [...node.childNodes].filter(({ nodeType }) => nodeType === Node.TEXT_NODE);
            check(node, texts.map(({ textContent }) => textContent).join(" "), colour);
            for (const name of ["::before", "::after"]) {
                const pseudo = getComputedStyle(node, name), [, text] = pseudo.content.match(/^"(.*?)"/) ?? [];
                if (text && pseudo.display !== "none") check(node, text, pseudo.color, pseudo);
            }
            if (node.matches(typed)) {
                check(node, node.value, colour);
                const pseudo = getComputedStyle(node, "::placeholder");
                if (!node.value) check(node, node.placeholder, pseudo.color, pseudo);
            }
        }
    }
    still.remove();
    return [count, [...weak]];
}"""
"""The number of visible texts, light and dark, and those whose contrast to their background is below 4.5 (WCAG 2.2,
1.4.3). Texts are also values, placeholders, generated content and what screen readers skip; controls that are disabled
are exempt."""


def expect_contrast(page: Page) -> None:
    """Every text that a person sees in this state is readable, light and dark."""
    count, weak = page.evaluate(CONTRAST)
    assert count > 40
    assert weak == []


SCALE = """() => [...document.querySelectorAll(".scale")].filter((one) => one.offsetHeight).flatMap((scale) => {
    const labels = [...scale.children], found = [], frame = scale.closest(".answer").getBoundingClientRect();
    const boxes = labels.map((label) => label.getBoundingClientRect());
    labels.forEach((label, place) => {
        const box = boxes[place], next = boxes[place + 1], isBeside = next?.top < box.bottom - 1;
        const isInside = box.left > frame.left && box.right < frame.right && label.scrollWidth <= label.clientWidth;
        if (!isInside || box.height > 30 || (isBeside && box.right > next.left - 2)) found.push(label.textContent);
    });
    return labels.length > 1 ? found : ["no labels"];
})"""


def expect_fitting(page: Page, *widths: int) -> None:
    """At these widths of the window, nothing is wider, and the labels below the bar stand apart."""
    size = page.viewport_size
    for width in widths:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(SCALE) == [], width
    page.set_viewport_size(size)
