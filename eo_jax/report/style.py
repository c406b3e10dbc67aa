"""The frame and the look of the report page: HTML and CSS, light and dark, screen, phone
and print.
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --line: #d9dee3; --paper: #ffffff; --card: #f5f7f9; --accent: #0b62a8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #9aa5b0; --line: #323a43; --paper: #12161b; --card: #1b2128; --accent: #6cb6f5; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1240px; padding: 1.5rem clamp(0.9rem, 3vw, 2.5rem) 3rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; text-wrap: balance; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 0.7rem; padding-bottom: 0.3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
a { color: var(--accent); }
.lead { margin: 0.3rem 0 0; color: var(--soft); }
.links { margin: 0.2rem 0 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 0.7rem; margin-top: 1.1rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.7rem 0.9rem; break-inside: avoid; }
.card .label, .card .note, figcaption, .caption, .legend, .nothing { color: var(--soft); font-size: 0.85rem; }
.card .value { font-size: 1.55rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
svg { display: block; width: 100%; height: auto; }
svg text, svg tspan { font-family: inherit !important; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 300px), 1fr)); gap: 0.6rem 1.2rem; }
.charts.curves { grid-template-columns: repeat(auto-fit, minmax(min(100%, 240px), 1fr)); }
.caption { margin: 0.1rem 0 0.6rem; }
.legend { margin: 0 0 1.2rem; padding-left: 1.1rem; max-width: 62rem; }
.legend b { color: var(--ink); font-weight: 600; }
article { margin-bottom: 1.8rem; padding-top: 0.4rem; }
.pictures { display: grid; grid-template-columns: repeat(5, 1fr); gap: 0.6rem; margin-bottom: 0.8rem; }
@media not screen and (max-width: 700px) {
  .pictures figure:nth-child(5) { grid-column: 1; }
  .pictures figure:nth-child(9) { grid-area: 1 / 5; }
  .pictures figure:nth-child(10) { grid-area: 2 / 5; }
}
.frame { position: relative; }
img.patch { display: block; width: 100%; image-rendering: pixelated; border-radius: 3px; }
img.bar { width: 6rem; height: 0.7rem; vertical-align: -0.05rem; image-rendering: auto; }
.frame i { position: absolute; width: 0; height: 0; font: 700 12px/1 system-ui, sans-serif;
  color: #fff; text-shadow: 0 0 2px #000, 0 0 2px #000, 0 0 3px #000; }
.frame i::before { content: ""; position: absolute; left: -5px; top: -5px; width: 10px; height: 10px;
  border: 1.5px solid #fff; border-radius: 50%; box-shadow: 0 0 0 1px #000; }
.scroll { overflow: auto; max-height: 26rem; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.8rem 0.25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
.evals { min-width: 40%; }
.evals th, .evals td { text-align: right; padding: 0.25rem 0.9rem; white-space: nowrap; }
.evals thead tr:first-child th[colspan] { text-align: center; border-bottom: 0; }
.evals th[rowspan] { vertical-align: bottom; }
.evals thead { background: var(--card); }
.pairs th { font-weight: 500; color: var(--soft); white-space: nowrap; }
.pairs td { overflow-wrap: anywhere; }
.pairs td[colspan] { border-bottom: 0; }
summary { cursor: pointer; font-weight: 550; padding: 0.15rem 0; }
details > .pairs { margin: 0.2rem 0 0.6rem 1.1rem; }
@media screen and (max-width: 700px) { .pictures { grid-template-columns: repeat(2, 1fr); } }
@media print {
  :root { font-size: 12px; }
  body { max-width: none; padding: 0; font-size: 11px; }
  h2, h3 { break-after: avoid; }
  article, tr { break-inside: avoid; }
  .charts { grid-template-columns: repeat(3, 1fr); }
  .charts.curves { grid-template-columns: repeat(2, 1fr); }
  .scroll { max-height: none; overflow: visible; }
  details::details-content { content-visibility: visible; block-size: auto; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>{header}</header>
<main>{body}</main>
</body>
</html>
"""
