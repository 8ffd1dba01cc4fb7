//! Bar charts as SVG: no fonts, scripts or files from elsewhere, and colours for light and dark surroundings.

use std::fmt::Write;

/// A chart: panels below each other.
pub struct Chart {
    pub title: String,
    pub subtitle: String,
    pub panels: Vec<Panel>,
}

/// Bars on one axis that begins at 0.
pub struct Panel {
    /// What the axis shows, with its unit.
    pub axis: String,
    pub bars: Vec<Bar>,
}

/// One bar.
pub struct Bar {
    pub label: String,
    pub value: f64,
    /// What stands at its end.
    pub text: String,
    /// Whether it stands out.
    pub strong: bool,
}

const WIDTH: f64 = 880.0;
/// Where bars begin, and how long the longest is.
const LEFT: f64 = 230.0;
const LENGTH: f64 = 520.0;
const ROW: f64 = 24.0;
const BAR: f64 = 16.0;
/// Above the first panel, and around each.
const HEAD: f64 = 64.0;
const ABOVE: f64 = 34.0;
const BELOW: f64 = 34.0;
/// Lines of the grid at most.
const TICKS: f64 = 6.0;

const STYLE: &str = "\
text { font: 13px system-ui, sans-serif; fill: #1f2328 } \
.title { font-size: 18px; font-weight: 600 } \
.small { font-size: 12px; fill: #59636e } \
.background { fill: #ffffff } \
.bar { fill: #8ab4e8 } .strong { fill: #1f6feb } \
.grid { stroke: #d1d9e0; stroke-width: 1 } \
@media (prefers-color-scheme: dark) { \
text { fill: #e6edf3 } .small { fill: #9198a1 } .background { fill: #0d1117 } \
.bar { fill: #365f94 } .strong { fill: #58a6ff } .grid { stroke: #30363d } }";

impl Chart {
    /// The document.
    pub fn draw(&self) -> String {
        let panel_height = |p: &Panel| ABOVE + ROW * p.bars.len() as f64 + BELOW;
        let height = HEAD + self.panels.iter().map(panel_height).sum::<f64>();
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = write!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n\
             <style>{STYLE}</style>\n\
             <rect class=\"background\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"20\" y=\"30\">{title}</text>\n\
             <text class=\"small\" x=\"20\" y=\"50\">{}</text>\n",
            escaped(&self.subtitle),
            title = escaped(&self.title),
        );
        let mut top = HEAD;
        for panel in &self.panels {
            panel.draw(&mut out, top);
            top += panel_height(panel);
        }
        out.push_str("</svg>\n");
        out
    }
}

impl Panel {
    fn draw(&self, out: &mut String, top: f64) {
        let most = self.bars.iter().map(|b| b.value).fold(0.0, f64::max);
        let step = tick(most);
        let scale = LENGTH / most.max(step);
        let (first, last) = (top + ABOVE, top + ABOVE + ROW * self.bars.len() as f64);
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{:.1}\">{}</text>",
            first - 12.0,
            escaped(&self.axis)
        );
        let decimals = (-step.log10().floor()).max(0.0) as usize;
        let mut i = 0.0;
        while i * step <= most.max(step) * 1.0001 {
            let x = LEFT + i * step * scale;
            let _ = writeln!(
                out,
                "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{first:.1}\" x2=\"{x:.1}\" y2=\"{last:.1}\"/>\n\
                 <text class=\"small\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{:.decimals$}</text>",
                last + 16.0,
                i * step
            );
            i += 1.0;
        }
        for (row, bar) in self.bars.iter().enumerate() {
            let y = first + ROW * row as f64 + (ROW - BAR) / 2.0;
            let base = y + BAR - 3.0;
            let length = (bar.value * scale).max(0.0);
            let class = if bar.strong { "bar strong" } else { "bar" };
            let _ = writeln!(
                out,
                "<text x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{}</text>\n\
                 <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{BAR}\"/>\n\
                 <text class=\"small\" x=\"{:.1}\" y=\"{base:.1}\">{}</text>",
                LEFT - 8.0,
                escaped(&bar.label),
                LEFT + length + 6.0,
                escaped(&bar.text)
            );
        }
    }
}

/// Distance of the lines of a grid: 1, 2 or 5 times a power of ten.
fn tick(most: f64) -> f64 {
    let least = (most / TICKS).max(1e-9);
    let power = 10f64.powf(least.log10().floor());
    let round = [1.0, 2.0, 5.0].into_iter().map(|m| m * power);
    round.into_iter().find(|t| *t >= least).unwrap_or(10.0 * power)
}

/// A text as the content of an element or of an attribute; what XML cannot hold becomes a space.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_grid_are_few_and_round() {
        for (most, expected) in [(1.0, 0.2), (6.0, 1.0), (7.0, 2.0), (31.0, 10.0), (250.0, 50.0)] {
            assert!(
                (tick(most) - expected).abs() < 1e-9 * expected,
                "{most}: {}",
                tick(most)
            );
        }
        assert!(tick(0.0) > 0.0);
    }

    #[test]
    fn marks_of_an_axis_have_the_decimals_they_need() {
        let marks = |value: f64| {
            let bar = Bar {
                label: String::new(),
                value,
                text: String::new(),
                strong: false,
            };
            let panel = Panel {
                axis: String::new(),
                bars: vec![bar],
            };
            let mut drawn = String::new();
            panel.draw(&mut drawn, 0.0);
            let texts = drawn.split("middle\">").skip(1);
            texts
                .map(|t| t.split('<').next().unwrap().to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(marks(1.0), ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(marks(31.0), ["0", "10", "20", "30"]);
    }

    #[test]
    fn texts_cannot_break_out_of_their_element() {
        assert_eq!(escaped("a<b> & \"c\"\n\0"), "a&lt;b&gt; &amp; &quot;c&quot;  ");
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |value: f64| Bar {
            label: "x".to_string(),
            value,
            text: String::new(),
            strong: value > 1.0,
        };
        let chart = Chart {
            title: "t".to_string(),
            subtitle: String::new(),
            panels: vec![Panel {
                axis: "a".to_string(),
                bars: vec![bar(1.0), bar(4.0), bar(0.0)],
            }],
        };
        let drawn = chart.draw();
        for width in ["width=\"130.0\"", "width=\"520.0\"", "width=\"0.0\""] {
            assert!(drawn.contains(width), "{width}: {drawn}");
        }
        assert_eq!(drawn.matches("class=\"bar strong\"").count(), 1);
    }
}
