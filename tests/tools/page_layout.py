"""Flaws of a page's layout, looked for in a browser: overflow, cut cells, texts on top of or against each other."""

from typing import Any

__all__ = ["flaws"]

_LOOK = """() => {
    const found = [];
    const short = (text) => text.trim().replace(/\\s+/g, " ").slice(0, 40);
    const wide = document.documentElement.scrollWidth - innerWidth;
    if (wide > 0) found.push(`page: ${wide} px wider than the window`);

    // Tables may be moved sideways on a phone, not on a screen.
    for (const box of document.querySelectorAll(".scroll")) {
        const over = box.scrollWidth - box.clientWidth;
        if (over > 0 && innerWidth >= 1280) found.push(`table: ${over} px cut: ${short(box.innerText)}`);
        if (over > 0 && (getComputedStyle(box).overflowX !== "auto" || box.tabIndex !== 0))
            found.push(`table: cannot be moved: ${short(box.innerText)}`);
    }
    for (const cell of document.querySelectorAll("td, th, dd, dt, figcaption, li, p, h1, h2, h3")) {
        const range = document.createRange();
        range.selectNodeContents(cell);
        if (range.getBoundingClientRect().right > cell.getBoundingClientRect().right + 1)
            found.push(`cell: cut: ${short(cell.innerText)}`);
    }

    const clipped = (rect, node) => {
        let { left, top, right, bottom } = rect;
        for (let box = node.parentElement; box; box = box.parentElement) {
            if (getComputedStyle(box).overflowX === "visible") continue;
            const edge = box.getBoundingClientRect();
            [left, top] = [Math.max(left, edge.left), Math.max(top, edge.top)];
            [right, bottom] = [Math.min(right, edge.right), Math.min(bottom, edge.bottom)];
        }
        return { left, top, right, bottom };
    };
    const texts = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let node = walker.nextNode(); node; node = walker.nextNode()) {
        if (!node.data.trim() || node.parentElement.closest("svg, style")) continue;
        const range = document.createRange();
        range.selectNodeContents(node);
        for (const rect of range.getClientRects()) texts.push({ text: node.data, owner: node, ...clipped(rect, node) });
    }
    for (const plot of document.querySelectorAll("svg.plot")) {
        const frame = plot.parentElement.getBoundingClientRect();
        for (const node of plot.querySelectorAll("text")) {
            const { left, top, right, bottom } = node.getBoundingClientRect();
            texts.push({ text: node.textContent, owner: node, plot, left, top, right, bottom });
            if (left < frame.left - 2 || right > frame.right + 2)
                found.push(`plot: outside: ${short(node.textContent)}`);
        }
    }
    texts.sort((a, b) => a.top - b.top);
    texts.forEach((a, i) => {
        for (const b of texts.slice(i + 1)) {
            if (b.top >= a.bottom) break;
            const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
            const along = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
            if (a.owner === b.owner) continue;
            if (across > 1 && along > 3) found.push(`overlap: ${short(a.text)} / ${short(b.text)}`);
            else if (a.plot && a.plot === b.plot && across > -3 && along > 3)
                found.push(`touch: ${short(a.text)} / ${short(b.text)}`);
        }
    });
    return found;
}"""


def flaws(page: Any, width: int, height: int = 844) -> list[str]:
    """What is wrong with the layout of an open page in a window of this size, one line each."""
    page.set_viewport_size({"width": width, "height": height})
    found: list[str] = page.evaluate(_LOOK)
    return found
