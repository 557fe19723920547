#!/usr/bin/env python3
"""Draws a text capture of a terminal as an SVG: monospaced, dark, about 100 columns wide.

    docs/images/terminal.py [--title TITLE] CAPTURE.txt PICTURE.svg

The picture holds the capture's characters and nothing else: each line is text that can be selected and searched. Block
elements (U+2588 to U+258F, the bars of histograms) are drawn as rectangles, because few fonts join them without gaps.
Python 3.9 or later, standard library only. The same capture gives the same bytes.
"""

import argparse
import re
import sys
import unicodedata
from pathlib import Path
from xml.sax.saxutils import escape

# In pixels. A cell is 0.6 of the font's size wide, as in DejaVu Sans Mono, Menlo and SF Mono.
FONT = 14
CELL = 8.4
LINE = 18
MARGIN = 18
TITLE = 34
# Narrower captures are drawn as wide as this, in cells.
COLUMNS = 100

BACKGROUND = "#0d1117"
BAR = "#161b22"
TEXT = "#c9d1d9"
DIM = "#8b949e"
HEADING = "#79c0ff"
BLOCK = "#3fb950"
DOTS = ("#ff5f57", "#febc2e", "#28c840")
FAMILY = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', 'Liberation Mono', monospace"

# "FLOWS  one span from each pod": a section's name, and what is said about it.
SECTION = re.compile(r"([A-Z][A-Z, ]*[A-Z])(  .*)?$")


def number(value):
    """At most two decimals, and none that say nothing."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def runs(line):
    """The line's parts as (first column, text, colour); blocks and spaces between parts are left out."""
    section = SECTION.match(line)
    colours = [TEXT] * len(line)
    if section:
        for column in range(len(line)):
            colours[column] = HEADING if column < section.end(1) else DIM
    start = None
    for column, character in enumerate(line + "█"):
        ends = is_block(character) or line[column : column + 2] == "  "
        changes = start is not None and column < len(line) and colours[column] != colours[start]
        if start is not None and (ends or changes):
            yield start, line[start:column], colours[start]
            start = None
        if start is None and not ends and character != " ":
            start = column


def is_block(character):
    return "\u2588" <= character <= "\u258f"


def blocks(line):
    """The line's bars as (first column, width in cells)."""
    start = width = None
    for column, character in enumerate(line + " "):
        if is_block(character):
            start = column if start is None else start
            # U+2588 is eight eighths, U+258F is one.
            width = column - start + (0x2590 - ord(character)) / 8
        elif start is not None:
            yield start, width
            start = None


def draw(lines, title):
    columns = max([COLUMNS, *map(len, lines)])
    width = columns * CELL + 2 * MARGIN
    height = TITLE + len(lines) * LINE + 2 * MARGIN
    size = f'width="{number(width)}" height="{number(height)}"'
    yield f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {number(width)} {number(height)}" role="img" aria-labelledby="title">'
    yield f'<title id="title">{escape(title)}</title>'
    yield f'<rect {size} rx="8" fill="{BACKGROUND}"/>'
    yield f'<path d="M0 {TITLE}V8a8 8 0 0 1 8-8h{number(width - 16)}a8 8 0 0 1 8 8v{TITLE - 8}z" fill="{BAR}"/>'
    for index, colour in enumerate(DOTS):
        yield f'<circle cx="{MARGIN + 4 + 20 * index}" cy="{TITLE // 2}" r="6" fill="{colour}"/>'
    yield f'<g font-family="{escape(FAMILY)}" font-size="{FONT}">'
    yield f'<text x="{number(width / 2)}" y="{TITLE // 2 + 5}" text-anchor="middle" fill="{DIM}">{escape(title)}</text>'
    for row, line in enumerate(lines):
        top = TITLE + MARGIN + row * LINE
        for start, cells in blocks(line):
            x, bar = number(MARGIN + start * CELL), number(cells * CELL)
            yield f'<rect x="{x}" y="{top + 2}" width="{bar}" height="{LINE - 5}" fill="{BLOCK}"/>'
        for start, text, colour in runs(line):
            x, length = number(MARGIN + start * CELL), number(len(text) * CELL)
            weight = ' font-weight="bold"' if colour == HEADING else ""
            yield f'<text x="{x}" y="{top + FONT}" textLength="{length}" fill="{colour}"{weight}>{escape(text)}</text>'
    yield "</g>"
    yield "</svg>"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("capture", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--title", default="sudo make demo")
    arguments = parser.parse_args()
    text = arguments.capture.read_text(encoding="utf-8").rstrip("\n")
    lines = [line.rstrip() for line in text.expandtabs().split("\n")]
    for row, line in enumerate(lines, start=1):
        # Colours and cursor movements are not text, and wide characters would move what stands behind them.
        odd = [c for c in line if unicodedata.category(c) == "Cc" or unicodedata.east_asian_width(c) in "WF"]
        if odd:
            sys.exit(f"{arguments.capture}:{row}: U+{ord(odd[0]):04X} is no character of one cell; capture without colours")
    picture = "\n".join(draw(lines, arguments.title)) + "\n"
    arguments.picture.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
