//! Small panels of bars as SVG, for light and dark surroundings.

use std::fmt::Write;

/// What each way of one load finds.
pub struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
}

/// Percent found in memory and, after it, on disk.
pub struct Bar {
    pub label: String,
    pub memory: f64,
    pub disk: f64,
    pub text: String,
}

const COLUMNS: usize = 3;
const LABELS: f64 = 200.0;
const CELL: f64 = 300.0;
/// Units of length for 100 %.
const FULL: f64 = 160.0;
const ROW: f64 = 17.0;
const HEAD: f64 = 70.0;
const ABOVE: f64 = 28.0;

const STYLE: &str = "\
text { font: 11px system-ui, sans-serif; fill: #1f2328 } \
.title { font-size: 16px; font-weight: 600 } .small { fill: #59636e } \
.background { fill: #ffffff } .empty { fill: #eaeef2 } .memory { fill: #1f6feb } .disk { fill: #8ab4e8 } \
@media (prefers-color-scheme: dark) { \
text { fill: #e6edf3 } .small { fill: #9198a1 } .background { fill: #0d1117 } \
.empty { fill: #21262d } .memory { fill: #58a6ff } .disk { fill: #365f94 } }";

/// The document: panels in rows of three, their labels at the left.
pub fn draw(title: &str, subtitle: &str, panels: &[Panel]) -> String {
    let bars = panels.first().map_or(0, |p| p.bars.len());
    let cell = ABOVE + ROW * bars as f64 + 10.0;
    let width = LABELS + CELL * COLUMNS as f64;
    let height = HEAD + cell * panels.len().div_ceil(COLUMNS) as f64;
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{title}\">\n\
         <style>{STYLE}</style>\n<rect class=\"background\" width=\"{width}\" height=\"{height}\"/>\n\
         <text class=\"title\" x=\"20\" y=\"28\">{title}</text>\n<text class=\"small\" x=\"20\" y=\"48\">{subtitle}</text>"
    );
    for (i, panel) in panels.iter().enumerate() {
        let left = LABELS + CELL * (i % COLUMNS) as f64;
        let top = HEAD + cell * (i / COLUMNS) as f64;
        let _ = writeln!(
            out,
            "<text x=\"{left}\" y=\"{}\">{}</text>",
            top + 18.0,
            panel.title
        );
        for (row, bar) in panel.bars.iter().enumerate() {
            let y = top + ABOVE + ROW * row as f64;
            let (base, memory, disk) = (y + 10.0, bar.memory * FULL / 100.0, bar.disk * FULL / 100.0);
            if i % COLUMNS == 0 {
                let end = LABELS - 8.0;
                let _ = writeln!(
                    out,
                    "<text x=\"{end}\" y=\"{base}\" text-anchor=\"end\">{}</text>",
                    bar.label
                );
            }
            let mut part = |class: &str, x: f64, w: f64| {
                let _ = writeln!(
                    out,
                    "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y}\" width=\"{w:.1}\" height=\"12\"/>"
                );
            };
            part("empty", left, FULL);
            part("memory", left, memory);
            part("disk", left + memory, disk);
            let _ = writeln!(
                out,
                "<text class=\"small\" x=\"{}\" y=\"{base}\">{}</text>",
                left + FULL + 6.0,
                bar.text
            );
        }
    }
    out.push_str("</svg>\n");
    out
}
