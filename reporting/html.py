"""The HTML of the report and of the index: every text is escaped, and a report has no script.

Style rules do what scripts usually do. The epochs are radio buttons, each followed by the block that it shows. A checkbox
pauses the GIFs: it shows the picture that a GIF ends in. A link enlarges a picture: its figure becomes the target of the
page's address. The Content-Security-Policy forbids scripts, in case a text is ever not escaped.
"""

from __future__ import annotations

import os
from html import escape
from typing import Iterable, Sequence
from urllib.parse import quote

from reporting.reader import Folder

STYLE = """
:root { --page: #fff; --ink: #1f2328; --soft: #575f68; --line: #d5dae0; --tint: #f5f6f8; --accent: #1f5fa8; --on: #fff;
  --warn: #fff6e0; --bad: #a3121f; --good: #17692f; --shade: #0005; color-scheme: light; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #15181b; --ink: #e6e9ec; --soft: #a9b1ba; --line: #3b424a;
  --tint: #20252a; --accent: #82b6f0; --on: #0d1b2a; --warn: #39300f; --bad: #ff9a94; --good: #83d69c; --shade: #fff5;
  color-scheme: dark; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 2.25rem 1.25rem 4rem; max-width: 100rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
html:has(figure:target) { overflow: hidden; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .6rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.state { font-weight: 600; margin: 0 0 .3rem; }
.state::first-letter { text-transform: uppercase; }
.soft { color: var(--soft); max-width: 60rem; }
p.soft { margin: .15rem 0 .6rem; }
.note, .expected { padding: .5rem .9rem; margin: 1rem 0; overflow-wrap: anywhere; border-left: 4px solid #d9a400;
  background: var(--warn); max-width: 75rem; }
.expected { background: var(--tint); border-color: var(--accent); }
nav { margin-top: .9rem; } nav a { margin-right: 1.1rem; white-space: nowrap; }
dl { margin: 0; } dd { margin: 0; overflow-wrap: anywhere; }
dl.about { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; } dl.about dt { color: var(--soft); }
dl.facts { display: grid; grid-template-columns: repeat(5, 1fr); gap: .7rem; margin: 1.3rem 0 0; max-width: 75rem; }
dl.facts div { background: var(--tint); border-radius: .5rem; padding: .6rem .9rem; }
dl.facts dt { font-size: .82rem; color: var(--soft); }
dl.facts dd { font-size: 1.15rem; font-weight: 600; font-variant-numeric: tabular-nums; }
dl.rest { columns: 17rem; column-gap: 2rem; font-size: .9rem; }
dl.rest div { display: flex; justify-content: space-between; gap: 1rem; border-bottom: 1px solid var(--line);
  padding: .2rem 0; break-inside: avoid; }
dl.rest dd { text-align: right; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.25rem; align-items: flex-start; }
figure { margin: 0; break-inside: avoid; width: min(100%, max(var(--w), 17rem)); }
figure img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); }
figure > a { display: inline-block; max-width: 100%; } a.enlarge { cursor: zoom-in; } a.close { display: none; }
figcaption { font-size: .9rem; color: var(--soft); margin-top: .3rem; max-width: 44rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); }
@media screen {
  figure:target { position: fixed; inset: 0; z-index: 9; width: auto; overflow: auto; padding: 3.6rem 1rem 1rem;
    background: var(--page); }
  figure:target > a { max-width: none; cursor: default; } figure:target .still.blank { display: none; }
  figure:target img { max-width: none; width: max(var(--w), min(100vw - 3rem, 3 * var(--w))); image-rendering: pixelated; }
  figure:target .close { display: block; position: fixed; top: .8rem; left: 1rem; padding: .3rem .9rem; z-index: 10;
    background: var(--accent); color: var(--on); border-radius: .3rem; text-decoration: none; font-weight: 600; }
}
.steps { position: relative; display: flex; flex-wrap: wrap; align-items: center; row-gap: .3rem; margin: .8rem 0; }
.steps > input { position: absolute; opacity: 0; }
.steps > b { margin-right: .7rem; }
.steps > label { min-width: 2.6rem; padding: .25rem .7rem; margin-right: -1px; border: 1px solid var(--line);
  background: var(--tint); text-align: center; font-variant-numeric: tabular-nums; cursor: pointer; }
.steps > input:checked + label { background: var(--accent); border-color: var(--accent); color: var(--on);
  font-weight: 600; }
.steps > input:focus-visible + label { outline: 3px solid var(--accent); outline-offset: 2px; z-index: 1; }
.steps > .step { display: none; order: 1; flex: 0 0 100%; min-width: 0; }
.steps > input:checked + label + .step { display: block; }
.step > h3 { margin-top: .6rem; }
.pause { width: 1.1rem; height: 1.1rem; vertical-align: -.15rem; margin: 0 .5rem 0 0; } .pause + label { cursor: pointer; }
figure .still, .pause + label > .play { display: none; }
.still.blank { border: 1px dashed var(--line); padding: 2rem; }
figure img.still { object-fit: contain; }
.pause:checked ~ * .moving { display: none; } .pause:checked ~ * .still { display: block; }
@media (prefers-reduced-motion: reduce) {
  .pause + label > .hold, figure .moving { display: none; } figure .still { display: block; }
  .pause + label > .play { display: inline; }
  .pause:checked ~ * .still { display: none; } .pause:checked ~ * .moving { display: block; }
}
.scroll { overflow-x: auto; margin: .3rem 0 .8rem; max-width: max-content; background-repeat: no-repeat; background-image:
  linear-gradient(90deg, var(--page) 40%, transparent), linear-gradient(270deg, var(--page) 40%, transparent),
  linear-gradient(90deg, var(--shade), transparent), linear-gradient(270deg, var(--shade), transparent);
  background-position: left, right, left, right; background-size: 2.5rem 100%, 2.5rem 100%, .8rem 100%, .8rem 100%;
  background-attachment: local, local, scroll, scroll; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .7rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
table.numbers th, table.numbers td { text-align: right; } table.numbers td { white-space: nowrap; max-width: 24rem;
  overflow: hidden; text-overflow: ellipsis; }
tbody th { font-weight: normal; }
tr.changed th, tr.changed td { font-weight: 600; } tr.changed td + td { font-weight: normal; color: var(--soft); }
td { overflow-wrap: anywhere; }
pre { background: var(--tint); border-radius: .5rem; padding: .8rem 1rem; white-space: pre-wrap; overflow-wrap: anywhere; }
.print { display: none; }
@media (max-width: 62rem) { dl.facts { grid-template-columns: repeat(auto-fill, minmax(min(100%, 10rem), 1fr)); } }
@media (max-width: 44rem) { body { padding: 1.25rem .9rem 3rem; } h1 { font-size: 1.5rem; } }
@media (forced-colors: active) { .steps > input { position: static; opacity: 1; margin: 0 .3rem; } }
@media print {
  @page { margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 9.5pt; -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  h1 { font-size: 17pt; } h2 { font-size: 13pt; margin-top: 1.4rem; } h2, h3, h2 + .soft { break-after: avoid; }
  a { color: inherit; text-decoration: none; } tr { break-inside: avoid; }
  nav, .steps > input, .steps > label, .steps > b, .pause, .pause + label, .paired { display: none; }
  .print { display: block; } .scroll { overflow: visible; background: none; } table { font-size: 8pt; }
  th, td { padding: .15rem .35rem; } table.numbers td { white-space: normal; overflow-wrap: normal; }
  .pictures { display: grid; grid-template-columns: repeat(2, 1fr); gap: 5mm; }
  .pictures.weights { grid-template-columns: repeat(3, 1fr); }
  figure { width: auto; } figure img { max-height: 120mm; width: auto; }
  dl.rest, figcaption { font-size: 7.5pt; } dl.rest { columns: 3; }
}
"""
# A page may show pictures and nothing else, whatever is in it. (`*` does not include file:.)
POLICY = "default-src 'none'; img-src * file:; style-src 'unsafe-inline'"


def page(title: str, body: Iterable[str], policy: str = POLICY, style: str = STYLE) -> str:
    """A complete HTML page; `body` is HTML."""
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
    """The relative address of a file below the folder of the page, ready to stand in an attribute."""
    return "./" + escape(quote(os.fsencode(name)))


def section(title: str, *parts: str) -> str:
    """A heading and its content; "" if there is no content."""
    content = "\n".join(part for part in parts if part)
    return f'<section id="{_anchor(title)}">\n<h2>{escape(title)}</h2>\n{content}\n</section>\n' if content else ""


def contents(sections: Iterable[str], titles: Iterable[str]) -> str:
    """Links to the sections that are not empty."""
    links = [f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title, text in zip(titles, sections) if text]
    return f'<nav aria-label="Sections">{" ".join(links)}</nav>\n' if links else ""


def _anchor(title: str) -> str:
    return escape(title.lower().replace(" ", "-"))


def paragraph(text: str, css: str = "soft") -> str:
    return f'<p class="{css}">{escape(text)}</p>\n' if text else ""


def term(name: str, value: str) -> str:
    """A line of a list of names and values (dl)."""
    return f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>\n"


def figure(folder: Folder, name: str, title: str, text: str = "", alt: str = "") -> str:
    """A picture with a caption, which a link enlarges."""
    size = folder.image_size(name)
    return _figure(name, size, f'<img src="{link(name)}" alt="{escape(alt or title)}"{_size(size)}>', title, text)


def animation(folder: Folder, name: str, still: str | None, title: str, alt: str, text: str = "") -> str:
    """A GIF. While it is paused, the picture `still` has its place, in a box of the same shape, so that nothing moves."""
    size = folder.image_size(name)
    shape = _size(size) + (f' style="aspect-ratio: {size[0]} / {size[1]}"' if size else "")
    moving = f'<img class="moving" src="{link(name)}" alt="{escape(alt)}"{shape} loading="lazy">'
    if still:
        paused = f'<img class="still" src="{link(still)}" alt="{escape(alt)}: the end"{shape} loading="lazy">'
    else:
        paused = f'<span class="still blank">Paused: {escape(name)}</span>'
    return _figure(name, size, moving + paused, title, text, "paired" if still else "")


def _size(size: tuple[int, int] | None) -> str:
    return f' width="{size[0]}" height="{size[1]}"' if size else ""


def _figure(name: str, size: tuple[int, int] | None, images: str, title: str, text: str, css: str = "") -> str:
    """--w is the natural width: the style sheet makes the figure as wide, if the page is."""
    key, width = link(name)[2:], size[0] if size else 400
    return (
        f'<figure id="view-{key}" class="{css}" style="--w: {width}px"><a class="close" href="#of-{key}">Close</a>'
        f'<a class="enlarge" id="of-{key}" href="#view-{key}">{images}</a>'
        f"<figcaption><b>{escape(title)}{'.' if text else ''}</b> {escape(text)}</figcaption></figure>\n"
    )


def pictures(figures: Iterable[str], css: str = "") -> str:
    """Figures side by side, as many as the page is wide."""
    content = "".join(figures)
    return f'<div class="pictures {css}">\n{content}</div>\n' if content else ""


def stepper(group: str, what: str, unit: str, steps: Sequence[tuple[str, str, str]]) -> str:
    """Radio buttons in a row, the last one chosen, each with the block that it shows. A single step has no button.

    group: an identifier. what: what the steps show, such as 'Samples'. unit: 'epoch'. steps: (label, heading, HTML).
    In print the chosen block appears, and a line names those that do not.
    """
    blocks = [f'<div class="step"><h3>{escape(heading)}</h3>\n{content}</div>' for _, heading, content in steps]
    if len(steps) < 2:
        return "".join(blocks)
    buttons = [
        f'<input type="radio" name="{group}" id="{group}{i}" autocomplete="off"{" checked" * (i == len(steps) - 1)}>'
        f'<label for="{group}{i}">{escape(label)}</label>\n{block}\n'
        for i, ((label, _, _), block) in enumerate(zip(steps, blocks))
    ]
    labels = ", ".join(label for label, _, _ in steps)
    about = f'role="group" aria-label="{escape(what)} by {escape(unit)}"'
    return (
        f'<div class="steps" {about}>\n<b>{escape(unit.title())}</b>\n{"".join(buttons)}'
        + paragraph(f"{what}: {unit}s {labels}; printed is the one that was chosen on the screen.", "print soft")
        + "</div>\n"
    )


def pause_switch(key: str) -> str:
    """The checkbox that pauses the GIFs after it. For users who asked their system for little motion it plays them."""
    hold = '<span class="hold">Pause the animations, and show what each one ends in</span>'
    play = '<span class="play">Play the animations (paused, because your system asks for little motion)</span>'
    box = f'<input type="checkbox" class="pause" id="{key}" autocomplete="off">'
    return f'{box}<label for="{key}">{hold}{play}</label>\n'


def scroll(table: str, label: str) -> str:
    """A table in a box that scrolls sideways, also with the keyboard. Shadows show where it goes on."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">{table}</div>\n'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], css: str = "numbers") -> str:
    """A table of texts."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{css}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
