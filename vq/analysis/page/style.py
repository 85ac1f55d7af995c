"""Style of the page: dark on white, readable at 1280 pixels and on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 28px 32px 60px; max-width: 1216px; background: #fff; color: #1b1f24;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", "DejaVu Sans", Roboto, Helvetica, Arial, sans-serif; }
h1 { font-size: 30px; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 22px; margin: 44px 0 10px; padding-top: 14px; border-top: 2px solid #1b1f24; }
h3 { font-size: 16px; margin: 0 0 6px; }
p { margin: 6px 0; max-width: 80ch; }
.sub { color: #57606a; margin-bottom: 18px; overflow-wrap: anywhere; }
.finding { border-left: 6px solid #8c959f; padding: 6px 14px; margin: 10px 0; background: #f6f8fa;
  break-inside: avoid; }
.finding p { max-width: 100ch; overflow-wrap: anywhere; }
.finding .what { font-weight: 600; }
.bad { border-color: #b3261e; } .warn { border-color: #b07c00; } .good { border-color: #1a7f37; }
.word { display: inline-block; min-width: 3.6em; font-size: 13px; font-weight: 700; letter-spacing: .03em;
  text-transform: uppercase; }
.bad .word { color: #b3261e; } .warn .word { color: #7d5600; } .good .word { color: #1a7f37; }
.note .word { color: #57606a; }
nav { margin: 22px 0 0; }
nav ul { margin: 4px 0; padding: 0; list-style: none; display: flex; flex-wrap: wrap; gap: 4px 18px; }
a { color: #0550ae; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 14px 0 0; font-size: 14px; }
.facts dt { color: #57606a; } .facts dd { margin: 0; overflow-wrap: anywhere; }
.plots { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 26px 28px; margin: 14px 0;
  align-items: start; }
figure { margin: 0; break-inside: avoid; min-width: 0; } figure.wide { grid-column: 1 / -1; }
.plots.one figure:not(.wide) { grid-column: 1 / -1; display: grid; grid-template-columns: repeat(2, minmax(0, 1fr));
  gap: 0 28px; align-items: center; }
.plots.one h3 { grid-column: 1 / -1; }
figure svg { display: block; width: 100%; height: auto; font-family: inherit; }
figure img { display: block; max-width: 100%; height: auto; image-rendering: auto; border: 1px solid #d8dee4; }
.atlas { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 16px 22px; margin: 14px 0; }
.atlas img { width: 100%; image-rendering: pixelated; border: none; }
figcaption { font-size: 14px; color: #424a53; margin-top: 6px; }
details { margin: 10px 0; } summary { cursor: pointer; color: #0550ae; font-size: 15px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin: 8px 0; }
th, td { text-align: left; vertical-align: top; padding: 4px 10px 4px 0; border-bottom: 1px solid #d8dee4;
  overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #57606a; }
td.n, th.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
.def { display: block; font-weight: 400; color: #57606a; font-size: 12.5px; max-width: 62ch; }
.notes { font-size: 14px; color: #424a53; }
footer { margin-top: 48px; border-top: 1px solid #d8dee4; padding-top: 10px; font-size: 13.5px; color: #57606a; }
@media screen and (max-width: 800px) {
  .plots, .atlas, .plots.one figure:not(.wide) { grid-template-columns: 1fr; } body { padding: 16px; } }
@media print {
  @page { size: A4; margin: 14mm; }
  body { max-width: none; padding: 0; font-size: 10.5pt; }
  nav { display: none; } a { color: inherit; text-decoration: none; }
  .finding { background: none; } h2 { break-after: avoid; } h1 { font-size: 20pt; }
  figure svg { font-size: 15px; } figcaption, summary { font-size: 8.5pt; }
  .plots { gap: 14px 18px; } table { font-size: 8.5pt; } tr { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
""".strip()
