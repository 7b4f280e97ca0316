"""The building blocks of the report and of the index page: HTML in which every text is escaped, and its style.

There is no script in a report. The stepper through epochs is a row of radio buttons, each followed by what it shows
(the arrow keys step through them), and the switch that pauses GIFs is a checkbox: style rules do the rest. A GIF is
paused by showing the picture that it ends in, because a browser has no way to hold one at its present frame (a canvas gets
its first one, which is noise). The page forbids scripts by its Content-Security-Policy, should a file's text ever get
past the escaping.
"""

from __future__ import annotations

import os
from html import escape
from typing import Iterable, Sequence
from urllib.parse import quote

from reporting.reader import Folder

STYLE = """
:root { --ink: #1f2328; --soft: #575f68; --line: #d5dae0; --tint: #f5f6f8; --accent: #1f5fa8; color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.25rem 1.25rem 4rem; max-width: 88rem; background: #fff; color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.state { font-weight: 600; margin: 0 0 .3rem; }
.state::first-letter { text-transform: uppercase; }
.soft { color: var(--soft); max-width: 60rem; }
p.soft { margin: .15rem 0 .6rem; }
.note { background: #fff6e0; border-left: 4px solid #d9a400; padding: .5rem .9rem; margin: 1rem 0; overflow-wrap: anywhere; }
.expected { background: var(--tint); border-left: 4px solid var(--accent); padding: .5rem .9rem; margin: 1rem 0; }
nav { margin-top: .9rem; } nav a { margin-right: 1.1rem; white-space: nowrap; }
dl { margin: 0; } dd { margin: 0; overflow-wrap: anywhere; }
dl.about { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; } dl.about dt { color: var(--soft); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 13.2rem), 1fr)); gap: .7rem; margin: 1.3rem 0 0; }
dl.facts div { background: var(--tint); border-radius: .5rem; padding: .6rem .9rem; }
dl.facts dt { font-size: .82rem; color: var(--soft); }
dl.facts dd { font-size: 1.2rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dl.rest { columns: 17rem; column-gap: 2rem; font-size: .9rem; }
dl.rest div { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid var(--line);
  padding: .2rem 0; break-inside: avoid; }
dl.rest dd { text-align: right; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 25rem), 1fr)); gap: 1.25rem;
  align-items: start; }
@media (min-width: 56rem) { .pictures > figure:only-child { grid-column: 1 / span 2; } }
figure { margin: 0; break-inside: avoid; }
figure img { max-width: 100%; max-height: 46rem; width: auto; height: auto; border: 1px solid var(--line); border-radius: .25rem; }
figure a { display: inline-block; max-width: 100%; } figure a img { display: block; }
figcaption { font-size: .9rem; color: var(--soft); margin-top: .3rem; max-width: 44rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
.steps { position: relative; display: flex; flex-wrap: wrap; align-items: center; row-gap: .3rem; margin: .8rem 0; }
.steps > input { position: absolute; opacity: 0; }
.steps > b { margin-right: .7rem; }
.steps > label { min-width: 2.6rem; padding: .25rem .7rem; margin-right: -1px; border: 1px solid var(--line);
  background: var(--tint); text-align: center; font-variant-numeric: tabular-nums; cursor: pointer; }
.steps > input:checked + label { background: var(--accent); border-color: var(--accent); color: #fff; font-weight: 600; }
.steps > input:focus-visible + label { outline: 3px solid var(--accent); outline-offset: 2px; z-index: 1; }
.steps > .step { display: none; order: 1; flex: 0 0 100%; min-width: 0; }
.steps > input:checked + label + .step { display: block; }
.step > h3 { margin-top: .6rem; }
.pause { width: 1.1rem; height: 1.1rem; vertical-align: -.15rem; margin: 0 .5rem 0 0; } .pause + label { cursor: pointer; }
.still, .pause + label > .play { display: none; }
.still.blank { border: 1px dashed var(--line); padding: 2rem; }
figure img.still { object-fit: contain; } figure img.moving, figure img.still { width: 36rem; }
.pause:checked ~ * .moving { display: none; } .pause:checked ~ * .still { display: block; }
@media (prefers-reduced-motion: reduce) {
  .pause + label > .hold, .moving { display: none; } .still { display: block; } .pause + label > .play { display: inline; }
  .pause:checked ~ * .still { display: none; } .pause:checked ~ * .moving { display: block; }
}
.scroll { overflow-x: auto; margin: .3rem 0 .8rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
table.numbers th, table.numbers td { text-align: right; white-space: nowrap; }
tbody th { font-weight: normal; }
tr.changed th, tr.changed td { font-weight: 600; } tr.changed td + td { font-weight: normal; color: var(--soft); }
td { overflow-wrap: anywhere; }
pre { background: var(--tint); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.print { display: none; }
@media (max-width: 700px) {
  body { padding: 1.25rem .9rem 3rem; } h1 { font-size: 1.5rem; }
  dl.facts { grid-template-columns: 1fr 1fr; }
}
@media (forced-colors: active) { .steps > input { position: static; opacity: 1; margin: 0 .3rem; } }
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 9.5pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  h1 { font-size: 17pt; } h2 { font-size: 13pt; margin-top: 1.4rem; } h2, h3, h2 + .soft { break-after: avoid; }
  a { color: inherit; text-decoration: none; } tr { break-inside: avoid; }
  nav, .steps > input, .steps > label, .steps > b, .pause, .pause + label, .paired { display: none; }
  .print { display: block; } .scroll { overflow: visible; } table { font-size: 8pt; } th, td { padding: .15rem .35rem; }
  table.numbers th { white-space: normal; }
  .pictures { grid-template-columns: repeat(2, 1fr); gap: 5mm; } .pictures.weights { grid-template-columns: repeat(3, 1fr); }
  figure img { max-height: 120mm; }
  dl.rest, figcaption { font-size: 7.5pt; } dl.rest { columns: 3; }
}
"""
# What a page may do, whatever is in it: show pictures, from where it lies (`*` does not cover file: everywhere).
POLICY = "default-src 'none'; img-src * file:; style-src 'unsafe-inline'"


def page(title: str, body: Iterable[str], policy: str = POLICY, style: str = STYLE) -> str:
    """A whole HTML page; `body` is HTML."""
    return "".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n',
            f'<title>{escape(title)}</title>\n<meta name="viewport" content="width=device-width, initial-scale=1">\n',
            f"<style>{style}</style>\n</head>\n<body>\n<main>\n",
            *body,
            "</main>\n</body>\n</html>\n",
        ]
    )


def link(name: str | os.PathLike) -> str:
    """A relative address of a file in the folder of the page, ready to stand in an attribute."""
    return "./" + escape(quote(os.fsencode(name)))


def section(title: str, *parts: str) -> str:
    """A heading and its content, or nothing where there is no content."""
    content = "\n".join(part for part in parts if part)
    anchor = title.lower().replace(" ", "-")
    return f'<section id="{escape(anchor)}">\n<h2>{escape(title)}</h2>\n{content}\n</section>\n' if content else ""


def contents(sections: Iterable[str], titles: Sequence[str]) -> str:
    """Links to the sections that are not empty."""
    links = [
        f'<a href="#{escape(title.lower().replace(" ", "-"))}">{escape(title)}</a>'
        for title, content in zip(titles, sections)
        if content
    ]
    return f'<nav aria-label="Sections">{" ".join(links)}</nav>\n' if links else ""


def paragraph(text: str, css: str = "soft") -> str:
    return f'<p class="{css}">{escape(text)}</p>\n' if text else ""


def figure(folder: Folder, name: str, title: str, text: str = "", alt: str = "") -> str:
    """A picture that links to its file. Its caption is the title and, where there is one, the text."""
    size = folder.image_size(name)
    shape = f' width="{size[0]}" height="{size[1]}"' if size else ""
    image = f'<img src="{link(name)}" alt="{escape(alt or title)}"{shape}>'
    return f'<figure><a href="{link(name)}">{image}</a>{_caption(title, text)}</figure>\n'


def animation(folder: Folder, name: str, still: str | None, title: str, alt: str, text: str = "") -> str:
    """A GIF, and what takes its place where it is paused: a picture in a box of the same shape, so that nothing jumps."""
    size = folder.image_size(name)
    shape = f' width="{size[0]}" height="{size[1]}" style="aspect-ratio: {size[0]} / {size[1]}"' if size else ""
    moving = f'<img class="moving" src="{link(name)}" alt="{escape(alt)}"{shape} loading="lazy">'
    if still:
        paused = f'<img class="still" src="{link(still)}" alt="{escape(alt)}: what it ends in"{shape} loading="lazy">'
    else:
        paused = f'<span class="still blank">Paused: {escape(name)}</span>'
    css = ' class="paired"' if still else ""
    return f'<figure{css}><a href="{link(name)}">{moving}{paused}</a>{_caption(title, text)}</figure>\n'


def _caption(title: str, text: str) -> str:
    more = f" {escape(text)}" if text else ""
    return f"<figcaption><b>{escape(title)}{'.' if text else ''}</b>{more}</figcaption>"


def pictures(figures: Iterable[str], css: str = "") -> str:
    """Figures side by side, as many as the page is wide."""
    content = "".join(figures)
    return f'<div class="pictures{" " * bool(css)}{css}">\n{content}</div>\n' if content else ""


def stepper(group: str, what: str, unit: str, steps: Sequence[tuple[str, str, str]]) -> str:
    """Radio buttons in a row, the last one chosen, each with the block that it shows; one step needs no buttons.

    group: an identifier. what: what is stepped through. unit: 'epoch'. steps: (label, heading, HTML) in order.
    In print the chosen block appears, and a line says which ones do not.
    """
    blocks = [f'<div class="step"><h3>{escape(heading)}</h3>\n{content}</div>' for _, heading, content in steps]
    if len(steps) < 2:
        return "".join(blocks)
    parts = [
        f'<div class="steps" role="group" aria-label="{escape(what)} by {escape(unit)}">\n<b>{escape(unit.title())}</b>\n'
    ]
    for i, ((label, _, _), block) in enumerate(zip(steps, blocks)):
        key = f"{group}{i}"
        checked = " checked" if i == len(steps) - 1 else ""
        parts.append(
            f'<input type="radio" name="{group}" id="{key}" autocomplete="off"{checked}>'
            f'<label for="{key}">{escape(label)}</label>\n{block}\n'
        )
    labels = ", ".join(label for label, _, _ in steps)
    parts.append(
        paragraph(f"{what}: {unit}s {labels}; printed is the one that was chosen on the screen.", "print soft")
    )
    return "".join(parts) + "</div>\n"


def pause_switch(key: str) -> str:
    """The checkbox that pauses the GIFs in the elements after it (for whoever asked for little motion: plays them)."""
    hold = '<span class="hold">Pause the animations, and show what each one ends in</span>'
    play = '<span class="play">Play the animations (paused, as your system asks for little motion)</span>'
    return (
        f'<input type="checkbox" class="pause" id="{key}" autocomplete="off"><label for="{key}">{hold}{play}</label>\n'
    )


def scroll(table: str, label: str) -> str:
    """A table in a box of its own that scrolls sideways on a narrow screen, with the keyboard too."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>\n'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], css: str = "numbers") -> str:
    """A table of texts."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
