"""Matplotlib's SVG, made fit for a page and for a file."""

from __future__ import annotations

from xml.etree import ElementTree

from distill.report import svg

RAW = b"""<?xml version="1.0"?>
<!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://www.w3.org/Graphics/SVG/1.1/DTD/svg11.dtd">
<svg xmlns:xlink="http://www.w3.org/1999/xlink" width="100.123456pt" viewBox="0 0 100.123456 50"
 xmlns="http://www.w3.org/2000/svg" version="1.1">
 <metadata>date</metadata>
 <defs><style type="text/css">*{stroke-linejoin: round}</style></defs>
 <g id="figure_1"><g id="axes_1">
  <defs><path id="mark" d="M 0 0.123456 L 1 1" style="stroke: #222222"/></defs>
  <path d="M 0 0" clip-path="url(#clip)" style="fill: none; stroke: #0072b2"/>
  <use xlink:href="#mark" x="1.999999" style="fill: #222222"/>
  <text style="font: 700 9px 'DejaVu Sans'; text-anchor: end" transform="rotate(-0 1 1)">a&lt;b
c</text>
 </g></g>
 <defs><clipPath id="clip"><rect x="0" y="0" width="9" height="9"/></clipPath></defs>
</svg>"""


def test_inline_has_attributes_for_styles_and_ids_of_its_own() -> None:
    text = svg.inline(RAW, "f1-", 'a "figure" & more')
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == 'a "figure" & more'
    assert (root.get("role"), root.get("viewBox")) == ("img", "0 0 100.12 50")
    assert root.get("xmlns") is None
    assert "style" not in text
    assert "http" not in text
    assert "metadata" not in text
    assert [element.get("id") for element in root.iter() if element.get("id")] == ["f1-1", "f1-0"]
    use, path = root.find("use"), root.find("path")
    assert use is not None
    assert path is not None
    assert use.attrib == {"href": "#f1-1", "x": "2.00", "fill": "#222222"}
    assert path.attrib == {
        "d": "M 0 0", "clip-path": "url(#f1-0)", "fill": "none", "stroke": "#0072b2"
    }  # fmt: skip
    words = root.find("text")
    assert words is not None
    assert words.text == "a<b\nc"
    assert words.attrib == {"font-size": "9px", "font-weight": "700", "text-anchor": "end"}


def test_a_file_of_its_own_names_no_document_elsewhere() -> None:
    content = svg.standalone(RAW)
    root = ElementTree.fromstring(content)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert b"DOCTYPE" not in content
    assert b"date" not in content
    assert content.count(b"http") == 1  # the namespace
    assert b'id="mark"' in content
    assert b'href="#mark"' in content
