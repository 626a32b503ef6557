//! A bar chart as SVG.

use std::fmt::Write as _;

/// One bar for each name, from 0 to 1. The colors suit light and dark pages.
pub(crate) fn bars(title: &str, bars: &[(&str, f64)]) -> String {
    const ROW: usize = 24;
    const LEFT: usize = 330;
    const WIDTH: usize = 320;
    let height = ROW * (bars.len() + 2);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {height}" role="img" font-family="sans-serif" font-size="13" fill="#808080"><title>{title}</title>"##,
        LEFT + WIDTH + 60
    );
    let _ = writeln!(svg, r#"<text x="0" y="16" font-weight="bold">{title}</text>"#);
    for (n, (name, share)) in bars.iter().enumerate() {
        let (top, width) = (ROW * (n + 1) + 6, share.clamp(0.0, 1.0) * WIDTH as f64);
        let color = if name.contains("by hand") { "#b08040" } else { "#4080c0" };
        let _ = writeln!(
            svg,
            r#"<text x="{}" y="{}" text-anchor="end">{name}</text><rect x="{LEFT}" y="{top}" width="{width:.0}" height="16" fill="{color}"/><text x="{:.0}" y="{}">{share:.2}</text>"#,
            LEFT - 8,
            top + 13,
            LEFT as f64 + width + 6.0,
            top + 13,
        );
    }
    let _ = writeln!(
        svg,
        r##"<line x1="{0}" y1="{ROW}" x2="{0}" y2="{1}" stroke="#808080" stroke-dasharray="3"/></svg>"##,
        LEFT + WIDTH,
        height - ROW / 2
    );
    svg
}
