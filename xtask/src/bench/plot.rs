//! Plots as SVG text: what `./x bench` draws is two kinds of lines with a few labels.

use std::fmt::Write;

use batonctl::show::grouped;

/// The size of a plot, and the room around what is drawn, in units of the SVG.
const WIDTH: f64 = 760.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 48.0;
const ROW: f64 = 26.0;
const LINE_HEIGHT: f64 = 240.0;

/// A horizontal bar for each row: name, ticks.
pub fn bars(title: &str, unit: &str, rows: &[(String, u64)]) -> String {
    let most = rows.iter().map(|(_, value)| *value).max().unwrap_or(0).max(1);
    let height = TOP + rows.len() as f64 * ROW + 16.0;
    let mut svg = head(title, height);
    for (index, (name, value)) in rows.iter().enumerate() {
        let y = TOP + index as f64 * ROW;
        let width = *value as f64 / most as f64 * (WIDTH - LEFT - RIGHT);
        _ = writeln!(
            svg,
            "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT:.0}\" y=\"{y:.0}\" width=\"{width:.1}\" height=\"{:.0}\" fill=\"#4078a8\"/>\
             <text x=\"{:.1}\" y=\"{:.0}\">{} {}</text>",
            LEFT - 8.0,
            y + 15.0,
            escaped(name),
            ROW - 6.0,
            LEFT + width + 6.0,
            y + 15.0,
            grouped(*value),
            escaped(unit),
        );
    }
    svg + "</svg>\n"
}

/// A line through points (x, y), from 0 on both axes.
pub fn line(title: &str, x_unit: &str, y_unit: &str, points: &[(u64, u64)]) -> String {
    let most = |values: &mut dyn Iterator<Item = u64>| values.max().unwrap_or(0).max(1) as f64;
    let (right, top) = (most(&mut points.iter().map(|(x, _)| *x)), most(&mut points.iter().map(|(_, y)| *y)));
    let place = |(x, y): (u64, u64)| {
        (LEFT + x as f64 / right * (WIDTH - LEFT - RIGHT), TOP + LINE_HEIGHT * (1.0 - y as f64 / top))
    };
    let (bottom, end) = (TOP + LINE_HEIGHT, WIDTH - RIGHT);
    let mut svg = head(title, bottom + 44.0);
    _ = writeln!(
        svg,
        "<path d=\"M{LEFT:.0} {TOP:.0}V{bottom:.0}H{end:.0}\" fill=\"none\" stroke=\"#888\"/>\
         <text x=\"{end:.0}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
         <text x=\"{:.0}\" y=\"{TOP:.0}\" text-anchor=\"end\">{}</text>",
        bottom + 36.0,
        escaped(x_unit),
        LEFT - 8.0,
        escaped(y_unit),
    );
    let path: Vec<String> = points.iter().map(|point| place(*point)).map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"#4078a8\" stroke-width=\"2\"/>", path.join(" "));
    for (x, y) in points {
        let (left, up) = place((*x, *y));
        _ = writeln!(
            svg,
            "<circle cx=\"{left:.1}\" cy=\"{up:.1}\" r=\"4\" fill=\"#4078a8\"/>\
             <text x=\"{left:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
             <text x=\"{left:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>",
            up - 10.0,
            grouped(*y),
            bottom + 18.0,
            grouped(*x),
        );
    }
    svg + "</svg>\n"
}

fn head(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH:.0} {height:.0}\" font-family=\"sans-serif\" \
         font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"24\" font-size=\"15\">{}</text>\n",
        escaped(title)
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_numbers() {
        let svg = bars("a < b", "ticks", &[("freeze".into(), 1_000), ("verify".into(), 250), ("run".into(), 0)]);
        let whole = WIDTH - LEFT - RIGHT;
        for width in [whole, whole / 4.0, 0.0] {
            assert!(svg.contains(&format!("width=\"{width:.1}\" height=\"20\"")), "{width}: {svg}");
        }
        assert!(svg.contains(">a &lt; b<") && svg.contains(">1,000 ticks<") && svg.ends_with("</svg>\n"));
        assert_eq!(svg.matches("<rect x=").count(), 3);
    }

    #[test]
    fn a_flat_line_is_flat() {
        let svg = line("growth", "GiB", "ticks", &[(1, 500), (4, 500)]);
        let quarter = LEFT + (WIDTH - LEFT - RIGHT) / 4.0;
        let expected = format!("points=\"{quarter:.1},{TOP:.1} {:.1},{TOP:.1}\"", WIDTH - RIGHT);
        assert!(svg.contains(&expected), "{expected}: {svg}");
    }

    #[test]
    fn nothing_to_draw_is_no_panic() {
        assert!(bars("", "", &[]).ends_with("</svg>\n"));
        assert!(line("", "", "", &[(0, 0)]).ends_with("</svg>\n"));
    }
}
