"""Matplotlib's SVG made small, and fit for a page that allows no style attribute.

Each ``style`` becomes presentation attributes (``fill="#0072b2"``), so that the page's style sheet
may answer them with the colours of its light or dark theme, and no file names a font, a date or a
document elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

SVG = "http://www.w3.org/2000/svg"
HREF = "{http://www.w3.org/1999/xlink}href"
UNUSED = {"font-family", "font", "stroke-miterlimit"}
LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")
LOCAL = re.compile(r"url\(#([\w.-]+)\)")
GEOMETRY = ("d", "x", "y", "width", "height", "transform", "points", "viewBox", "stroke-width")


def standalone(raw: bytes) -> bytes:
    """A figure as a file of its own.

    Args:
        raw: as Matplotlib wrote it.
    """
    root = _tidy(raw)
    root.attrib = {"xmlns": SVG, "font-family": "DejaVu Sans, Verdana, sans-serif"} | root.attrib
    body = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="utf-8"?>\n{body}\n'.encode()


def inline(raw: bytes, prefix: str, label: str) -> str:
    """A figure as part of a page.

    Args:
        raw: as Matplotlib wrote it.
        prefix: before its ids, so that no other figure on the page has the same.
        label: what it shows, for who cannot see it.
    """
    root = _tidy(raw, prefix)
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode", short_empty_elements=False)


def _tidy(raw: bytes, prefix: str = "") -> Element:
    root = ElementTree.fromstring(raw)
    _lighten(root)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        element.tail = None
        if element.text and element.tag != "text":
            element.text = None
        _restyle(element)
    _rename(root, prefix)
    _unwrap(root)
    # what Matplotlib says of every element in a style sheet; these two are inherited
    root.attrib |= {"stroke-linejoin": "round", "stroke-linecap": "butt"}
    root.attrib.pop("version", None)
    return root


def _lighten(root: Element) -> None:
    """Without the style sheet and the metadata."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}style", f"{{{SVG}}}metadata"):
                parent.remove(child)


def _restyle(element: Element) -> None:
    """Style as attributes, lengths to a hundredth of a point."""
    for name, value in declarations(element.attrib.pop("style", "")):
        element.set(name, value)
    if HREF in element.attrib:
        element.set("href", element.attrib.pop(HREF))
    for name in GEOMETRY:
        if name in element.attrib:
            shorter = LONG_NUMBER.sub(lambda m: f"{float(m[0]):.2f}", element.attrib[name])
            element.set(name, " ".join(shorter.split()))
    turned = element.get("transform", "")
    if element.tag == "text" and turned.startswith(("rotate(-0 ", "rotate(0 ")):
        del element.attrib["transform"]


def declarations(style: str) -> Iterator[tuple[str, str]]:
    """The declarations of a style attribute; of a font its size and weight alone.

    >>> list(declarations("font: 700 7px 'DejaVu Sans'; text-anchor: end"))
    [('font-size', '7px'), ('font-weight', '700'), ('text-anchor', 'end')]
    """
    for part in filter(str.strip, style.split(";")):
        name, value = (side.strip() for side in part.split(":", 1))
        if name == "font":
            size = re.search(r"[\d.]+px", value)
            weight = re.match(r"(?:.* )?(bold|[1-9]00) ", value)
            yield from [("font-size", size[0])] if size else []
            yield from [("font-weight", weight[1])] if weight else []
        elif name not in UNUSED:
            yield name, value


def _rename(root: Element, prefix: str) -> None:
    """Only ids that something refers to, told apart from those of other figures."""
    known = {element.get("id") for element in root.iter()}
    used: dict[str, str] = {}

    def new(old: str) -> str:
        return used.setdefault(old, f"{prefix}{len(used)}" if prefix else old)

    for element in root.iter():
        target = element.get("href", "").removeprefix("#")
        if target in known and target:
            element.set("href", f"#{new(target)}")
        for name, value in element.attrib.items():
            if value.startswith("url(#"):
                element.set(name, LOCAL.sub(lambda m: f"url(#{new(m[1])})", value))
    for element in root.iter():
        name = element.attrib.pop("id", "")
        if name in used:
            element.set("id", used[name])


def _unwrap(root: Element) -> None:
    """Groups that say nothing give way to what they hold."""
    for parent in list(root.iter()):
        children: list[Element] = []
        for child in parent:
            children += _held(child)
        parent[:] = children


def _held(element: Element) -> list[Element]:
    if element.tag in ("g", "defs") and not element.attrib and not len(element):
        return []
    if element.tag != "g" or element.attrib:
        return [element]
    return [inner for child in element for inner in _held(child)]
